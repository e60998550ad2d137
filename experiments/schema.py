"""What an experiment is made of. Frozen data: nothing here runs anything."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from analysis.claims import Claim
from mhmoe.configs import Config
from mhmoe.corpora import EmbeddedCorpus, HubCorpus, LocalCorpus
from mhmoe.packing import PackingConfig

Corpora = Callable[[], EmbeddedCorpus | LocalCorpus | HubCorpus]


@dataclass(frozen=True, kw_only=True)
class Style:
    """How networks look at a scale: the same for every system."""

    activation: str = "gelu"
    bias: bool = False
    inner_norm: bool = False


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A size at which every experiment can be run.

    model: arguments of MHMoEConfig other than the layers. training: arguments of TrainingConfig other than
    the learning rate. learning_rates: the grid that every system gets, tried with `tuning_seed` on
    `tuning_share` of the steps; a grid of one is taken as it is. seeds: of the final runs. multiple_of:
    inner widths are multiples of it.
    """

    name: str
    purpose: str
    model: Mapping[str, Any]
    style: Style
    corpus: Corpora
    packing: PackingConfig
    training: Mapping[str, Any]
    learning_rates: Sequence[float]
    seeds: Sequence[int]
    tuning_seed: int = 1000
    tuning_share: float = 1 / 3
    multiple_of: int = 8
    device: str = "cpu"


@dataclass(frozen=True)
class System:
    """One row: a name for records, a label for people, and the feed-forward config it has at a scale.

    `layer` gives the config of the MoE blocks, or None for a dense model. `seeds` limits the final runs to
    the first so many of the scale's seeds, `width` replaces the scale's model width.
    """

    name: str
    label: str
    layer: Callable[[Scale], Config | None] = field(repr=False, hash=False, compare=False)
    seeds: int | None = None
    width: int | None = None

    def at(self, scale: Scale) -> Scale:
        """The scale, at this system's own width if it has one."""
        if self.width is None:
            return scale
        return dataclasses.replace(scale, model={**scale.model, "hidden_size": self.width})


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run; `name` is its record's."""

    name: str
    scale: Scale
    task: str
    system: System
    seed: int
    learning_rate: float | None
    steps_share: float = 1.0
    tests: bool = True
    """False for runs that only choose something: they never see the test split."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table: the system, and where the paper prints its value (a path in paper.json)."""

    system: System
    paper: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FollowUp:
    """A run of v2 as it prints it: MH-MoE's heads, inner width, top_k and number of experts."""

    heads: int
    expert_dim: int
    top_k: int
    num_experts: int


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of test perplexity, and the claims about them."""

    stem: str
    title: str
    rows: Sequence[Row]
    claims: Sequence[Claim] = ()
    reference: str | None = None
    notes: Sequence[str] = ()
    task: str = "english"
    split: str = "test"
    tasks: Sequence[str] = ("english",)


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Learning curves in panels: title of the panel -> label there -> system.

    A label looks alike in all panels.
    """

    stem: str
    title: str
    panels: Mapping[str, Mapping[str, System]]
    claims: Sequence[Claim] = ()
    notes: Sequence[str] = ()
    task: str = "english"
    tasks: Sequence[str] = ("english",)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The learning rates that every system was given, and what came out on `valid`."""

    stem: str
    title: str
    systems: Sequence[System]
    notes: Sequence[str] = ()
    task: str = "english"
    tasks: Sequence[str] = ("english",)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Parameters and FLOPs of the systems at some scales, from the configs alone: nothing is run."""

    stem: str
    title: str
    systems: Sequence[System]
    scales: Sequence[str]
    follow_up: Sequence[FollowUp] = ()
    notes: Sequence[str] = ()
    task: str = "english"
    tasks: Sequence[str] = ("english",)


Experiment = Table | Curves | Sweep | Sizes
