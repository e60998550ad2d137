"""python -m benchmarks: time the layer and the training, print the tables, write results/speed.

The full run takes about a quarter of an hour on two cores, which should have nothing else to do. The zero-shot
scores of a checkpoint are timed, beside lm-eval's command, where one is named; that takes as long again.
"""

import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from benchmarks.card_speed import run as run_card
from benchmarks.layer_speed import measure_layers, sizes_dict
from benchmarks.report import write
from benchmarks.timing import ROOT, cpu_model
from benchmarks.training_speed import measure_training
from benchmarks.zero_shot_speed import measure_zero_shot
from experiments.runner.jobs import cores
from experiments.runner.measurements import folder_of_data
from experiments.scales import CPU
from mhmoe.cli import exit_code
from mhmoe.data.manifest import DATA_VARIABLE
from mhmoe.io import UserError, check_output, read_json
from mhmoe.training.record import provenance

RESULTS = ROOT / "results" / "speed"
TRAINING_SHARE = 0.25
QUICK_ITEMS = 4


def benchmark(
    only: Literal["layer", "training", "zero_shot"] | None = None,
    quick: bool = False,
    repetitions: int = 9,
    time_budget: float = 840.0,
    output: Path = RESULTS,
    render: bool = False,
    checkpoint: Path | None = None,
    tasks: tuple[str, ...] = ("english",),
    data: Path | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
) -> None:
    """Time the layer and the training against their peers, and the zero-shot scores of a checkpoint.

    Args:
        only: one of the benchmarks.
        quick: tiny sizes, to see that it works; give another output folder, or the figures are overwritten.
        repetitions: rounds at most, each timing every contender once.
        time_budget: seconds after which no new round begins; every setting gets its share.
        output: folder of the json, md and png files.
        render: measure nothing; write md and png again from the json files.
        checkpoint: for zero_shot, a folder written by save_pretrained.
        tasks: for zero_shot, as in analysis.zero_shot.
        data: for zero_shot, the folder with harness/; else MHMOE_DATA.
        device: cuda times the layer on a graphics card alone, and writes card.json and card.md.
    """
    for option, value in (("repetitions", repetitions), ("time_budget", time_budget)):
        if not value > 0:
            raise UserError(f"{option}={value} is not allowed; it must be above 0")
    if device == "cuda":
        if render or only not in (None, "layer"):
            raise UserError("device=cuda times the layer and nothing else; leave out --render and other --only")
        if not torch.cuda.is_available():
            raise UserError("device=cuda needs a CUDA card, and torch sees none")
        print(run_card("cuda", quick, repetitions, output))
        return
    asked = ["training", "layer"]
    if checkpoint is not None or (render and (output / "zero_shot.json").exists()):
        asked.append("zero_shot")
    names = [only] if only else asked
    questions = folder_of_data(data, CPU, output)
    if "zero_shot" in names and not render and (checkpoint is None or questions is None):
        raise UserError(f"zero_shot needs --checkpoint, and questions: name their folder by --data or {DATA_VARIABLE}")
    for name in names:
        for suffix in ("json", "md"):
            check_output(output / f"{name}.{suffix}")
    begun, common = time.monotonic(), facts(quick)

    def measure(name: str) -> dict[str, Any]:
        if name == "training":
            share = time_budget if only else TRAINING_SHARE * time_budget
            return {"measured": measure_training(quick, begun + share)}
        if name == "layer":
            rows = measure_layers(quick, repetitions, begun + time_budget)
            return {"repetitions": repetitions, "sizes": sizes_dict(quick), "rows": rows}
        assert checkpoint is not None and questions is not None
        limit, threads = (QUICK_ITEMS if quick else None), cores()
        return {"measured": measure_zero_shot(checkpoint, tasks, questions, threads, limit)}

    for name in names:
        path = output / f"{name}.json"
        values = read_json(path, "measurement", "measure, without --render") if render else {**common, **measure(name)}
        try:
            print(write(name, values, output))
        except (KeyError, TypeError, AttributeError, IndexError, StopIteration) as error:
            if not render:
                raise
            raise UserError(f"{path} is no measurement of {name} ({error!r}); measure again") from None
    print(f"written to {output}")


def facts(quick: bool) -> dict[str, Any]:
    """What both benchmarks state: where and when they were measured."""
    whole = provenance(shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]), cpu_model(), 0)
    source = {name: value for name, value in whole.items() if name != "threads"}  # every setting has its own
    return {"schema_version": 1, "quick": quick, "cores": os.cpu_count(), "provenance": source}


def main() -> int:
    return exit_code(
        lambda: tyro.cli(benchmark, prog="python -m benchmarks"),
        interrupted="interrupted; what was under way is not written",
    )


if __name__ == "__main__":
    sys.exit(main())
