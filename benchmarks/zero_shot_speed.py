"""The zero-shot benchmark: lm-eval's own command beside ours, on the same checkpoint, tasks and files.

Both are run as a user runs them, in processes of their own, start and imports included. lm-eval keeps its defaults
(one request at a time) but for what both are given: the device, float32, and the length of context.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from analysis.zero_shot.tasks import find, write_tasks
from benchmarks.timing import run_with_threads
from mhmoe.io import UserError

MAX_LENGTH = 512
"""Tokens. lm-eval needs room for the longest answer, which the context of small models has not."""


def measure_zero_shot(
    checkpoint: Path, names: Sequence[str], data: Path, threads: int, limit: int | None = None
) -> dict[str, Any]:
    """Accuracies and seconds of both. names, data: as in analysis.zero_shot. Raises UserError if one of them fails."""
    tasks = find(names)
    limited = [] if limit is None else ["--limit", str(limit)]
    settings = f"pretrained={checkpoint},trust_remote_code=True,dtype=float32,max_length={MAX_LENGTH}"
    with TemporaryDirectory() as folder:
        ours, theirs, local = Path(folder, "ours.json"), Path(folder, "lm_eval"), Path(folder, "tasks")
        write_tasks(local, tasks, data)
        of_ours = ["analysis.zero_shot", str(checkpoint), "--data", str(data), "--max-length", str(MAX_LENGTH)]
        of_ours += ["--tasks", *names, "--device", "cpu", "--output", str(ours), *limited]
        of_theirs = ["lm_eval", "run", "--model", "hf", "--model_args", settings, "--include_path", str(local)]
        of_theirs += ["--tasks", ",".join(task.name for task in tasks), "--device", "cpu", *limited]
        of_theirs += ["--output_path", str(theirs)]
        seconds = {"ours": _timed(of_ours, threads), "lm_eval": _timed(of_theirs, threads)}
        found = json.loads(ours.read_text())["tasks"]
        printed = [json.loads(path.read_text())["results"] for path in theirs.rglob("results_*.json")]
        if len(printed) != 1:
            raise UserError(f"lm-eval left {len(printed)} files of results, not one")
    return {
        "checkpoint": checkpoint.name,
        "threads": threads,
        "limit": limit,
        "max_length": MAX_LENGTH,
        "seconds": seconds,
        "rows": [row for task in tasks for row in _rows(task.name, found[task.name], printed[0][task.name])],
    }


def _rows(task: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each accuracy that lm-eval prints, and ours."""
    return [
        {"task": task, "n": ours["n"], "measure": name, "ours": found["value"], "lm_eval": theirs[f"{name},none"]}
        for name, found in ours["accuracies"].items()
    ]


def _timed(module: Sequence[str], threads: int) -> float:
    begun = time.perf_counter()
    run_with_threads([sys.executable, "-m", *module], threads)
    return round(time.perf_counter() - begun, 1)
