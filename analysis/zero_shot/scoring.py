"""Zero-shot scores of a language model: python -m analysis.zero_shot CHECKPOINT --tasks arc_easy piqa --data FOLDER

Any checkpoint folder of this project and any causal model in transformers' format, on the tasks of the paper's
Tables 2 and 3, through lm-eval's own API with its stock prompts and metrics. Beside every accuracy stand what
chance would give and measures that move at any scale (see answers.py). Scores are those of lm-eval's own command
on the same files, which `--write-tasks` prepares; length_batched.py says where they are computed faster.
"""

import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import tyro
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from tyro.conf import Positional

from analysis.statistics import CONFIDENCE
from analysis.tables import Column, Row, table_markdown
from analysis.zero_shot.answers import ACCURACIES, FINER, Scores, summarise
from analysis.zero_shot.harness import HUB, load_tasks, quiet, templates_compiled_once, to_item
from analysis.zero_shot.results import Settings, TaskScores, ZeroShotScores
from analysis.zero_shot.tasks import Task, checked_files, find, write_tasks
from mhmoe.cli import exit_code
from mhmoe.data.manifest import DATA_VARIABLE
from mhmoe.io import UserError, check_output, write_atomically
from mhmoe.model.checkpoints import load
from mhmoe.training.allocator import keep_freed_memory
from mhmoe.training.record import provenance

BATCH_TOKENS = 8192

COLUMNS = (
    Column("task", "task"),
    Column("n", "n", ","),
    Column("acc", "acc %", ".1f", 100),
    Column("acc_stderr", "s.e.", ".1f", 100),
    Column("acc_verdict", "to guessing"),
    Column("acc_norm", "acc_norm %", ".1f", 100),
    Column("acc_norm_stderr", "s.e.", ".1f", 100),
    Column("acc_norm_verdict", "to guessing"),
    Column("chance", "chance %", ".1f", 100),
    Column("majority", "majority %", ".1f", 100),
    Column("bits_per_byte", "bits per byte", ".4f"),
    Column("bits_per_byte_stderr", "s.e.", ".4f"),
    Column("margin", "margin", "+.4f"),
    Column("margin_stderr", "s.e.", ".4f"),
    Column("advantage", "advantage", "+.4f"),
    Column("advantage_stderr", "s.e.", ".4f"),
    Column("cut", "requests cut %", ".0f", 100),
)


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    data: Path | str,
    *,
    limit: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    max_length: int | None = None,
    progress: bool = True,
) -> ZeroShotScores:
    """Score a causal model.

    tasks: names, or "english" and "xnli" for all of Table 2 and of Table 3. data: a folder with harness/ and
    manifest.json, or "hub" for the stock data sets. limit: the first so many items of each task. max_length: in
    tokens, what is longer is cut from the left; None takes the model's own.

    Raises UserError for tasks and data that are not there, ValueError for numbers below 1.
    """
    chosen = find(tasks)
    _check_limit(limit)
    # Slow to import (seconds), and errors of arguments should not wait for it.
    from lm_eval.evaluator import evaluate as lm_eval_evaluate

    from analysis.zero_shot.length_batched import LengthBatchedLM

    started, was_training = time.perf_counter(), model.training
    with quiet(), templates_compiled_once(), TemporaryDirectory() as folder:
        loaded, source = load_tasks(chosen, data, Path(folder))
        lm = LengthBatchedLM(model, tokenizer, batch_tokens=batch_tokens, max_length=max_length, progress=progress)
        try:
            results: Any = lm_eval_evaluate(lm, {"tasks": loaded}, limit=limit, bootstrap_iters=0)
        finally:
            model.train(was_training)
        samples = results["samples"]
        values = {task.name: _values(task, loaded[task.name], samples[task.name], lm) for task in chosen}
    return ZeroShotScores(
        data=source,
        tasks=values,
        settings=Settings(num_fewshot=0, limit=limit, max_length=lm.max_length, lm_eval=metadata.version("lm_eval")),
        tokens=lm.tokens,
        seconds=round(time.perf_counter() - started, 1),
    )


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} is not allowed; it must be at least 1, or left out for all items")


def _values(task: Task, loaded: Any, samples: Sequence[Mapping[str, Any]], lm: Any) -> TaskScores:
    items = [to_item(task, loaded, sample) for sample in samples]
    requests = sum(len(item.right) for item in items)
    return TaskScores(
        **vars(summarise(items)),
        version=loaded.VERSION,
        cut=lm.cut[task.name] / requests,
        windowed=lm.windowed[task.name] / requests,
    )


# ---- the command -----------------------------------------------------------------------------


def table(result: ZeroShotScores) -> str:
    """A result of `evaluate` as Markdown."""
    rows: list[Row] = []
    for name, scores in result.tasks.items():
        row: Row = {"task": name, **{key: getattr(scores, key) for key in ("n", "chance", "majority", "cut")}}
        for measure in (*ACCURACIES, *FINER):
            found = scores.accuracies.get(measure) or scores.finer.get(measure)
            row |= {measure: found and found.value, f"{measure}_stderr": found and found.stderr}
        row |= {f"{measure}_verdict": _verdict(scores, measure) for measure in scores.accuracies}
        rows.append(row)
    return table_markdown(COLUMNS, rows)


def _verdict(scores: Scores, measure: str) -> str:
    """Where an accuracy lies to what guessing gives, with its p-value."""
    guess, p_value = scores.best_guess(measure)
    if p_value is None:
        return "cannot tell"
    side = "above" if scores.accuracies[measure].value > guess else "below"
    return f"{side if p_value < 1 - CONFIDENCE else 'cannot tell'} (p = {p_value:.2g})"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Zero-shot scores of a checkpoint on the tasks of the paper's Tables 2 and 3.

    Attributes:
        checkpoint: a folder written by save_pretrained, or a model's name on the Hugging Face hub.
        tasks: names of tasks; english and xnli stand for all of Table 2 and of Table 3.
        data: a folder with harness/ and manifest.json, or hub; else what MHMOE_DATA names.
        limit: score the first so many items of each task.
        max_length: in tokens, what is longer is cut from the left; the model's own if left out.
        batch_tokens: tokens that go through the model at once.
        device: such as cpu or cuda:0; a GPU if there is one.
        trust_remote_code: run the code that a model of the hub brings.
        output: a JSON file for all numbers, those of every item included.
        write_tasks: score nothing; write the tasks into this folder for lm_eval --include_path.
    """

    checkpoint: Annotated[Positional[str], tyro.conf.arg(metavar="CHECKPOINT")] = ""
    tasks: tuple[str, ...] = ("english",)
    data: str = ""
    limit: int | None = None
    max_length: int | None = None
    batch_tokens: int = BATCH_TOKENS
    device: str | None = None
    trust_remote_code: bool = False
    output: Path | None = None
    write_tasks: Path | None = None


def run(arguments: Arguments) -> None:
    """What the command does. Raises UserError and ValueError."""
    tasks = find(arguments.tasks)
    _check_limit(arguments.limit)
    data = arguments.data or os.environ.get(DATA_VARIABLE, "")
    if not data:
        raise UserError(f"no data folder is given; name one by --data, or set {DATA_VARIABLE}, or say --data {HUB}")
    if arguments.write_tasks is not None:
        if data == HUB:
            raise UserError("lm-eval has the tasks of the hub already; give a folder of data")
        write_tasks(arguments.write_tasks, tasks, Path(data))
        print(f"{len(tasks)} tasks; lm_eval --include_path {arguments.write_tasks} --tasks {tasks[0].name} ...")
        return
    if not arguments.checkpoint:
        raise UserError("no checkpoint is given; name a folder written by save_pretrained")
    if arguments.output is not None:
        check_output(arguments.output)
    if data != HUB:
        checked_files(tasks, Path(data))
    model, tokenizer = load(
        arguments.checkpoint, device=arguments.device, trust_remote_code=arguments.trust_remote_code
    )
    result = evaluate(
        model,
        tokenizer,
        arguments.tasks,
        data,
        limit=arguments.limit,
        batch_tokens=arguments.batch_tokens,
        max_length=arguments.max_length,
    )
    print(table(result))
    if arguments.output is not None:
        command = " ".join(["python -m analysis.zero_shot", *sys.argv[1:]])
        origin = provenance(command, str(model.device), torch.get_num_threads())
        whole = {"checkpoint": arguments.checkpoint, **dataclasses.asdict(result), "provenance": origin}
        write_atomically(arguments.output, json.dumps(whole, separators=(",", ":"), allow_nan=False) + "\n")
        print(f"written to {arguments.output}")


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_code(lambda: run(tyro.cli(Arguments, args=arguments, prog="python -m analysis.zero_shot")))


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
