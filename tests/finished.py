"""Finished and measured models of an experiment, for tests of what is made of them."""

from pathlib import Path

import pytest

from experiments.runner.launch import Options, measure_missing, run_missing
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
        assert run_missing(experiment, scale, options)
        assert measure_missing(experiment, scale, options)
    return options
