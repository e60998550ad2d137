"""lm-eval's tasks as we use them: loaded with our data, and what it logged of every item.

lm-eval and datasets take seconds to import, so they are imported where they are called: errors of arguments
should not wait for them.
"""

import contextlib
import functools
import io
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from analysis.results import Source
from analysis.zero_shot.answers import Item
from analysis.zero_shot.tasks import Task, checked_files, stock_file, write_tasks
from mhmoe.data.manifest import DataFolder
from mhmoe.io import UserError
from mhmoe.model.checkpoints import first_line

HUB = "hub"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without lm-eval's remarks on what is meant so (a model given as an object, metrics left to defaults), and
    where no terminal shows them, without its bars."""
    import datasets

    logger = logging.getLogger("lm_eval")
    level, bars = logger.level, datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    unseen = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
    try:
        with unseen:
            yield
    finally:
        logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def templates_compiled_once() -> Iterator[None]:
    """lm-eval compiles the prompt's template for every item anew, which takes as long as tokenizing."""
    from lm_eval import utils

    environment: Any = utils.env
    environment.from_string = functools.cache(environment.from_string)
    try:
        yield
    finally:
        del environment.from_string  # the method is behind it


def load_tasks(tasks: Sequence[Task], data: Path | str, folder: Path) -> tuple[dict[str, Any], Source]:
    """lm-eval's task objects by name, and where their items come from.

    folder: for temporary files, which must stay as long as the tasks. Raises UserError if data cannot be had.
    """
    from lm_eval.tasks import TaskManager

    if data == HUB:
        manager = TaskManager(include_defaults=False)
        specs, files = {task.name: str(stock_file(task)) for task in tasks}, {}
    else:
        files = checked_files(tasks, Path(data))
        write_tasks(folder, tasks, Path(data), cache=folder / "cache")
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        specs = {task.name: task.name for task in tasks}
    loaded: dict[str, Any] = {}
    for task in tasks:
        try:
            loaded |= manager.load([specs[task.name]])["tasks"]
        except Exception as error:  # whatever the network, the hub, the file formats and the templates raise
            place = task.file if files else "the hub"
            raise UserError(
                f"task {task.name}: cannot read its items from {place} ({type(error).__name__}: {first_line(error)})"
            ) from error
        loaded[task.name].set_config("num_fewshot", 0)
    if data == HUB:
        files = {f"{task.DATASET_PATH} {task.DATASET_NAME}": task.eval_docs._fingerprint for task in loaded.values()}
    return loaded, Source(kind=HUB if data == HUB else DataFolder.at(Path(data)).kind, files=files)


def questions(tasks: Sequence[Task], data: Path | str, items: int) -> tuple[dict[str, list[str]], Source]:
    """What a model reads of the first `items` items of each task: question and first answer, as lm-eval joins them;
    and where the items come from, as `load_tasks` says it.

    Raises UserError if data cannot be had.
    """
    with quiet(), TemporaryDirectory() as folder:
        loaded, source = load_tasks(tasks, data, Path(folder))
        texts: dict[str, list[str]] = {}
        for name, task in loaded.items():
            with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that lasts a moment
                task.build_all_requests(limit=items)
            texts[name] = ["".join(request.args[:2]) for request in task.instances if request.idx == 0]
        return texts, source


def to_item(task: Task, loaded: Any, sample: Mapping[str, Any]) -> Item:
    """What lm-eval logged of an item of a task object. UserError if its label names none of its choices."""
    arguments: list[tuple[str, str]] = sample["arguments"]
    right = _right(task, loaded, sample)
    return Item(
        key=json.dumps([arguments, right], ensure_ascii=False),
        log_likelihood=tuple(float(score) for score, _ in sample["filtered_resps"]),
        bytes=tuple(scored_bytes(context, continuation) for context, continuation in arguments),
        choices=tuple(continuation for _, continuation in arguments),
        right=right,
        scores={name: float(sample[name]) for name in sample["metrics"]},
    )


def _right(task: Task, loaded: Any, sample: Mapping[str, Any]) -> tuple[bool, ...]:
    """Which of the choices are right, by lm-eval's rules."""
    document, number = sample["doc"], len(sample["arguments"])
    if task.labels is not None:
        return tuple(label == 1 for label in document[task.labels]["labels"])
    # Where the question differs and not the answer (Winogrande), lm-eval keeps the label in the place of the text.
    gold = loaded.doc_to_text(document) if loaded.multiple_input else sample["target"]
    if not isinstance(gold, int) or not 0 <= gold < number:
        raise UserError(f"task {task.name}: item {sample['doc_id']} has the label {gold!r} for {number} choices")
    return tuple(choice == gold for choice in range(number))


def scored_bytes(context: str, continuation: str) -> int:
    """UTF-8 bytes of what is scored: lm-eval moves white space at the end of the context to the continuation."""
    return len((context[len(context.rstrip()) :] + continuation).encode())
