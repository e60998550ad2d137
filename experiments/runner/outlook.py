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


def seconds_of(run: Run, finished: Sequence[Record]) -> float | None:
    """As long as the first finished run of the same system took for its tokens; None if there is none."""
    alike = [record for record in finished if record.system == run.system.name]
    return tokens_of(run) * alike[0].wall_seconds / alike[0].tokens if alike else None


def time_left(runs: Sequence[Run], finished: Sequence[Record]) -> str:
    """Of all these runs, shared by the jobs, such as "1:20:00"; "" while nothing is finished.

    A system without a finished run is taken to be as fast as the others are on average.
    """
    if not finished:
        return ""
    mean = sum(record.wall_seconds for record in finished) / sum(record.tokens for record in finished)
    each = [(run, seconds_of(run, finished)) for run in runs]
    seconds = sum(tokens_of(run) * mean if known is None else known for run, known in each)
    return tqdm.format_interval(seconds / int(os.environ.get(JOB, "1")))
