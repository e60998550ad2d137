"""The tasks of the paper's zero-shot tables, as lm-eval has them, with data from a folder.

Prompts, choices and metrics are lm-eval's stock ones, unchanged. A local copy of a task is a YAML file that
includes the stock file by its absolute path and replaces nothing but where the data come from; it is written
anew on every machine, because site-packages differ. Data are <folder>/harness/<task>/<split>.jsonl.gz in the
schemas of the hub's data sets, listed with their sha256 in <folder>/manifest.json.
"""

import glob
import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mhmoe.data.manifest import DataFolder
from mhmoe.data.multilingual import XNLI_LANGUAGES
from mhmoe.io import UserError, check_output, write_atomically

SPLITS = ("validation", "test")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task: its name in lm-eval, its stock YAML below lm_eval/tasks, its folder of data, the split scored.

    The split is the one that the stock file scores where the hub has both. labels: where several answers may be
    right, the field of a document that marks them.
    """

    name: str
    stock: str
    folder: str
    split: str = "validation"
    labels: str | None = None

    @property
    def file(self) -> str:
        return f"harness/{self.folder}/{self.split}.jsonl.gz"


def _task(name: str, stock: str, **options: str) -> Task:
    return Task(**{"name": name, "stock": stock, "folder": name, **options})


# The order of the paper's Table 2 (nine tasks; TruthfulQA is scored in two ways) and Table 3.
ENGLISH = (
    _task("arc_challenge", "arc/arc_challenge.yaml", split="test"),
    _task("arc_easy", "arc/arc_easy.yaml", split="test"),
    _task("rte", "glue/rte/default.yaml"),
    _task("openbookqa", "openbookqa/openbookqa.yaml", split="test"),
    _task("winogrande", "winogrande/default.yaml"),
    _task("piqa", "piqa/piqa.yaml"),
    _task("boolq", "super_glue/boolq/default.yaml"),
    _task("hellaswag", "hellaswag/hellaswag.yaml"),
    _task("truthfulqa_mc1", "truthfulqa/truthfulqa_mc1.yaml", folder="truthfulqa"),
    _task("truthfulqa_mc2", "truthfulqa/truthfulqa_mc2.yaml", folder="truthfulqa", labels="mc2_targets"),
)
XNLI = tuple(_task(f"xnli_{language}", f"xnli/xnli_{language}.yaml") for language in XNLI_LANGUAGES)
TASKS: Mapping[str, Task] = {task.name: task for task in (*ENGLISH, *XNLI)}
GROUPS: Mapping[str, tuple[Task, ...]] = {"english": ENGLISH, "xnli": XNLI}


def find(names: Iterable[str]) -> tuple[Task, ...]:
    """The tasks of these names, each once; "english" and "xnli" stand for all of a table. UserError if unknown."""
    found: list[Task] = []
    for name in names:
        if name not in GROUPS and name not in TASKS:
            raise UserError(f"task {name!r} is not known; choose among {', '.join([*GROUPS, *TASKS])}")
        found += GROUPS.get(name) or (TASKS[name],)
    if not found:
        raise UserError(f"no task is given; choose among {', '.join([*GROUPS, *TASKS])}")
    return tuple(dict.fromkeys(found))


@cache
def _stock_folder() -> Path:
    spec = importlib.util.find_spec("lm_eval")  # without importing it, which takes seconds
    if spec is None or not spec.submodule_search_locations:
        raise UserError("zero-shot tasks need the package lm-eval; run: pip install lm-eval accelerate datasets")
    return Path(spec.submodule_search_locations[0]).resolve() / "tasks"


def stock_file(task: Task) -> Path:
    """The task's YAML in the installed lm-eval. UserError if that version has none there."""
    path = _stock_folder() / task.stock
    if not path.is_file():
        raise UserError(f"this version of lm-eval has no {path} for {task.name}; install the one in requirements.lock")
    return path


def checked_files(tasks: Sequence[Task], data: Path) -> dict[str, str]:
    """The tasks' files below `data` and their sha256, after they were checked against the manifest.

    Raises UserError if the manifest or a file is missing, not listed, or not what the manifest says.
    """
    folder = DataFolder.at(data)
    for task in tasks:
        if not (data / task.file).is_file():
            raise UserError(
                f"task {task.name} needs {data / task.file}, which is missing; fetch it, or leave the task out"
            )
    return {task.file: folder.hash_of(task.file) for task in tasks}


def write_tasks(folder: Path, tasks: Sequence[Task], data: Path, cache: Path | None = None) -> list[Path]:
    """Write a YAML file for every task, which `TaskManager(include_path=folder)` and `lm_eval --include_path` read.

    cache: where `datasets` keeps its copies; its usual place if None. Raises UserError as `checked_files` does.
    """
    for task in tasks:
        check_output(folder / f"{task.name}.yaml")
    checked_files(tasks, data)
    paths: list[Path] = []
    for task in tasks:
        path = folder / f"{task.name}.yaml"
        write_atomically(path, _yaml(_local(task, data, cache)))
        paths.append(path)
    return paths


def _local(task: Task, data: Path, cache: Path | None) -> dict[str, Any]:
    """What the YAML says: the stock file, and every key that tells where data come from."""
    arguments: dict[str, Any] = {"data_files": {task.split: glob.escape(str((data / task.file).resolve()))}}
    if cache is not None:
        arguments["cache_dir"] = str(cache)
    return {
        "include": str(stock_file(task)),
        "task": task.name,
        "tag": None,  # the stock task keeps its tags for itself
        "dataset_path": "json",
        "dataset_name": None,
        "training_split": None,
        **{f"{split}_split": split if split == task.split else None for split in SPLITS},
        "dataset_kwargs": arguments,
    }


def _yaml(mapping: Mapping[str, Any]) -> str:
    """A line a key; its value as JSON, which YAML includes."""
    return "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in mapping.items())
