"""How long runs take, from those that are finished."""

import os
from collections.abc import Sequence

from tqdm import tqdm

from experiments.runner.runs import Run
from mhmoe.display import JOB
from mhmoe.training.record import Record


def tokens_of(run: Run) -> int:
    training = run.system.at(run.scale).training
    return round(training["steps"] * run.steps_share) * training["batch_sequences"] * training["length"]


def alike(run: Run, finished: Sequence[Record]) -> Record | None:
    """The first finished run of the same system, on a card or on none as this one; None if there is none."""
    return next((record for record in _on_such(run, finished) if record.system == run.system.name), None)


def seconds_of(run: Run, finished: Sequence[Record]) -> float | None:
    """As long as the one that is `alike` took for its tokens."""
    found = alike(run, finished)
    return None if found is None else tokens_of(run) * found.wall_seconds / found.tokens


def time_left(runs: Sequence[Run], finished: Sequence[Record]) -> str:
    """Of all these runs, shared by the jobs, such as "1:20:00"; "" while nothing is finished on such a device.

    A system without a finished run is taken to be as fast as the others are on average.
    """
    finished = _on_such(runs[0], finished) if runs else finished
    if not finished:
        return ""
    mean = sum(record.wall_seconds for record in finished) / sum(record.tokens for record in finished)
    each = [(run, seconds_of(run, finished)) for run in runs]
    seconds = sum(tokens_of(run) * mean if known is None else known for run, known in each)
    return tqdm.format_interval(seconds / int(os.environ.get(JOB, "1")))


def _on_such(run: Run, finished: Sequence[Record]) -> list[Record]:
    """Those on a card if it is for one, else those on none: times of the one say nothing of the other."""
    return [r for r in finished if (r.provenance["device"] == "cpu") == (run.scale.device == "cpu")]
