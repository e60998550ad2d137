"""A measurement with a page of its own, as a command.

python -m benchmarks.NAME                   measured, into results/speed
python -m benchmarks.NAME --render          the page again, from the measurement that is there
python -m benchmarks.NAME --quick FOLDER    at tiny sizes, into a folder
"""

import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.timing import ROOT, cpu_model
from mhmoe.io import UserError, read_json, write_atomically
from mhmoe.training.record import provenance

RESULTS = ROOT / "results" / "speed"
RESAMPLED = 1000
QUICK_RUN = "QUICK RUN of tiny sizes: it shows that the benchmark works and nothing else."
IN_BRACKETS = "In brackets: the middle 95% of what resampled rounds give."


@dataclass(frozen=True, kw_only=True)
class MeasuredPage:
    """name: of its module. stem: of its files. measure: what is measured on one thread, at tiny sizes if it is told so.
    markdown: the page of that, with cpu and provenance."""

    name: str
    stem: str
    measure: Callable[[bool], Mapping[str, Any]]
    markdown: Callable[[Mapping[str, Any]], str]

    def run(self, arguments: Sequence[str]) -> None:
        """Raises UserError for other arguments than those above."""
        match [*arguments]:
            case []:
                quick, folder = False, RESULTS
            case ["--quick", folder]:
                quick, folder = True, Path(folder)
            case ["--render"]:
                found = read_json(RESULTS / f"{self.stem}.json", "measurement", "measure, without --render")
                print(self.write(found, RESULTS))
                return
            case _:
                raise UserError(f"{shlex.join(arguments)!r} is not known; give nothing, --render or --quick FOLDER")
        command = shlex.join(["python", "-m", f"benchmarks.{self.name}", *arguments])
        data = {
            "schema_version": 1,
            "quick": quick,
            "cpu": cpu_model(),
            "provenance": provenance(command, cpu_model(), 1),
        }
        print(self.write({**data, **self.measure(quick)}, folder))

    def write(self, data: Mapping[str, Any], folder: Path) -> str:
        """Both files; returns the page."""
        page = self.markdown(data)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{self.stem}.json", json.dumps(data, indent=1) + "\n")
        write_atomically(folder / f"{self.stem}.md", page)
        return page


def origin(data: Mapping[str, Any]) -> str:
    """On what a page was measured, of which commit and by which command."""
    source = data["provenance"]
    dirty = " with local changes" if source.get("dirty") else ""
    return (
        f"{data['cpu']}, 1 thread; torch {source['versions']['torch']}; commit {source['commit'][:12]}{dirty}; "
        f"{source['started']}; `{source['command']}`."
    )


class Interval(NamedTuple):
    """A value, and the quantiles between which 95% of those of resampled rounds are."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f}" + ("" if math.isnan(self.low) else f" [{self.low:.2f}, {self.high:.2f}]")


def over_rounds(value: Callable[[npt.NDArray[np.int64]], float], rounds: int) -> Interval:
    """value: of the rounds with these numbers, each of all, some or none of the times. One round tells no interval."""
    if rounds < 2:
        return Interval(value(np.arange(rounds)), math.nan, math.nan)
    draws = np.random.default_rng(0).integers(rounds, size=(RESAMPLED, rounds))
    low, high = np.quantile([value(drawn) for drawn in draws], (0.025, 0.975))
    return Interval(value(np.arange(rounds)), float(low), float(high))


def seconds_after_prompt(generating: Sequence[float], reading: Sequence[float]) -> float:
    """What generating took without its prompt's own pass, taken off round by round: the median over the rounds of both,
    of which a slow model has the first alone (timing.SLOW_STEP)."""
    return median(_after_prompt(generating, reading))


def time_to(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> Interval:
    """How many times as long they took as we did after the prompt, (generating, reading) of each; the rounds of both
    are drawn together, as models take their steps in turns."""
    mine, other = (np.array(_after_prompt(*of)) for of in (ours, theirs))
    rounds = min(len(mine), len(other))
    return over_rounds(lambda drawn: float(np.median(other[drawn]) / np.median(mine[drawn])), rounds)


def _after_prompt(generating: Sequence[float], reading: Sequence[float]) -> list[float]:
    return [max(whole - prompt, 1e-9) for whole, prompt in zip(generating, reading, strict=False)]
