"""Every experiment and scale by its name, as commands call them."""

import importlib
from collections.abc import Sequence
from pathlib import Path

from experiments.scales import SCALES
from experiments.schema import Experiment, Scale
from mhmoe.records import UserError


def experiments() -> dict[str, Experiment]:
    """Every file of this folder that declares an EXPERIMENT, by its stem."""
    stems = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    modules = {stem: importlib.import_module(f"experiments.{stem}") for stem in stems}
    return {stem: module.EXPERIMENT for stem, module in modules.items() if hasattr(module, "EXPERIMENT")}


def find(name: str, task: str = "") -> Experiment:
    """The experiment whose stem is `name`, or begins with it and is the only one; table1 is not table11.

    Where several begin so, that of the task, or the English one if none is given.
    """
    known = experiments()
    whole_words = [stem for stem in known if stem == name or stem.startswith(f"{name}_")]
    matching = whole_words or [stem for stem in known if stem.startswith(name)]
    if len(matching) > 1:
        matching = [stem for stem in matching if known[stem].task == (task or "english")] or matching
    if len(matching) != 1:
        problem = "not unique" if matching else "not an experiment"
        raise UserError(f"{name!r} is {problem}; choose one of {', '.join(matching or known)}")
    return known[matching[0]]


def with_heads(stem: str, task: str, heads: Sequence[int]) -> Experiment:
    """The experiment, for these numbers of heads instead of its own if any are given."""
    experiment = find(stem, task)
    if not heads:
        return experiment
    if min(heads) < 1:
        raise UserError(f"heads={min(heads)} is not allowed; it must be at least 1")
    module = importlib.import_module(f"experiments.{experiment.stem}")
    if not hasattr(module, "for_heads"):
        raise UserError(f"{experiment.stem} does not vary the number of heads; leave out --heads, or choose table5")
    return module.for_heads(heads)


def scale_of(name: str) -> Scale:
    if name not in SCALES:
        raise UserError(f"scale={name!r} is not known; choose one of {', '.join(SCALES)}")
    return SCALES[name]
