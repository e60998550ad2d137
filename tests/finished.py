"""Finished and measured models of an experiment, for tests of what is made of them."""

import dataclasses
from pathlib import Path

import pytest

from experiments.runner.failures import Failures
from experiments.runner.launch import Options, measure_missing, run_all
from experiments.runner.page import Page
from experiments.scales import Scale


def finish(
    experiment: Page, scale: Scale, folder: Path, *, seeds: tuple[int, ...] = (1, 2), data: Path | None = None
) -> Options:
    """Everything that the experiment wants, in `folder`; `data` stands for MHMOE_DATA. Returns how it was run."""
    options = Options(seeds=seeds, results=folder / "results", cache=folder / "cache")
    with pytest.MonkeyPatch.context() as patch:
        if data is None:
            patch.delenv("MHMOE_DATA", raising=False)
        else:
            patch.setenv("MHMOE_DATA", str(data))
        assert train(experiment, scale, options)
        assert measure(experiment, scale, options)
    return options


def train(page: Page, scale: Scale, options: Options) -> bool:
    """As a command that begins; raises UserError at its end if a run failed."""
    Failures.new(scale, options.cache)
    return run_all(page, scale, dataclasses.replace(options, train_only=True))


def measure(page: Page, scale: Scale, options: Options) -> bool:
    """What there is, and nothing trained for it that never was; raises UserError at its end if one failed."""
    failures = Failures.new(scale, options.cache)
    done = measure_missing(page, scale, options, failures)
    failures.report()
    return done
