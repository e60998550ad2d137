"""What an experiment is made of. Frozen data: nothing here runs anything."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from analysis.claims import Claim
from analysis.measured_claims import MeasuredClaim
from analysis.scores import Score
from experiments.generated_folder import GeneratedFolder
from mhmoe.configs import LayerConfig
from mhmoe.corpora import EmbeddedCorpus, HubCorpus, LocalCorpus
from mhmoe.generated import GeneratedCorpus
from mhmoe.multilingual import MultilingualCorpus
from mhmoe.packing import PackingConfig
from mhmoe.partly_generated import PartlyGeneratedCorpus
from mhmoe.records import UserError

Corpora = Callable[
    [], EmbeddedCorpus | LocalCorpus | HubCorpus | MultilingualCorpus | GeneratedCorpus | PartlyGeneratedCorpus
]


@dataclass(frozen=True, kw_only=True)
class Style:
    """How networks look at a scale: the same for every system."""

    activation: str = "gelu"
    bias: bool = False
    inner_norm: bool = False


@dataclass(frozen=True, kw_only=True)
class Text:
    """What a scale reads for another pre-training task than English; its vocabulary is the packing's."""

    corpus: Corpora
    packing: PackingConfig
    seeds: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A size at which every experiment can be run.

    model: arguments of MHMoEConfig other than the layers. training: arguments of TrainingConfig other than
    the learning rate. learning_rates: the grid that every system gets, tried with `tuning_seed` on
    `tuning_share` of the steps; a grid of one is taken as it is. seeds: of the final runs. multiple_of:
    inner widths are multiples of it. texts: what other tasks than English read. stand_in: what takes the place of
    the data folder where none is given; None where one must be.
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
    texts: Mapping[str, Text] = field(default_factory=dict[str, Text])
    stand_in: GeneratedFolder | None = None

    def reads(self, task: str) -> bool:
        """Whether the scale has text for a task."""
        return task == "english" or task in self.texts

    def for_task(self, task: str) -> "Scale":
        """The scale with a task's text, vocabulary and seeds. Raises UserError if it has no text for the task."""
        if task == "english":
            return self
        if not self.reads(task):
            known = ", ".join(["english", *self.texts])
            raise UserError(f"scale {self.name} has no text for task {task!r}; it has {known}")
        text = self.texts[task]
        model = {**self.model, "vocab_size": text.packing.vocab_size}
        return dataclasses.replace(self, model=model, corpus=text.corpus, packing=text.packing, seeds=text.seeds)


@dataclass(frozen=True)
class System:
    """One row: a name for records, a label for people, and the feed-forward config it has at a scale.

    layer: gives the config of the MoE blocks, or None for a dense model. seeds: limits the final runs to
    the first so many of the scale's seeds. model, training: replace arguments of the scale's. tuned_as: the
    system whose learning rate it takes, times `rate_factor`; None for one that is tuned itself. reading: under
    which reading it is of X-MoE's size; "" for X-MoE itself and for dense models. role: how it looks in figures
    (looks.py); "" takes what is free there.
    """

    name: str
    label: str
    layer: Callable[[Scale], LayerConfig | None] = field(repr=False, hash=False, compare=False)
    seeds: int | None = None
    model: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    training: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    tuned_as: "System | None" = field(default=None, repr=False)
    rate_factor: float = 1.0
    reading: str = ""
    role: str = ""

    def at(self, scale: Scale) -> Scale:
        """The scale with this system's own arguments of model and training."""
        model, training = {**scale.model, **self.model}, {**scale.training, **self.training}
        return dataclasses.replace(scale, model=model, training=training)


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
    """A row of a table: the system, where the paper prints its value (a path in paper.json), and the system that
    its change is relative to, if it is another one than the table's. paper_scores: its zero-shot scores there."""

    system: System
    paper: tuple[str | int, ...] = ()
    reference: str | None = None
    paper_scores: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True)
class FollowUp:
    """A run of v2 as it prints it: MH-MoE's heads, inner width, top_k and number of experts."""

    heads: int
    expert_dim: int
    top_k: int
    num_experts: int


@dataclass(frozen=True, kw_only=True)
class Page:
    """What every experiment has: a stem (its file's, and its pages'), a title, and remarks below.

    task: the pre-training task it is about. claims: for the ledger. measurements: names of what is measured on
    the finished models (measurements.py).
    """

    stem: str
    title: str
    notes: Sequence[str] = ()
    task: str = "english"
    claims: Sequence[Claim | MeasuredClaim] = ()
    measurements: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Trend:
    """A figure of a table's systems against a number of theirs: label -> (number, system).

    panels: the quantities, by their keys in trends.py.
    """

    x_label: str
    series: Mapping[str, Sequence[tuple[float, System]]]
    panels: Sequence[str]
    log_x: bool = False


@dataclass(frozen=True, kw_only=True)
class Table(Page):
    """Rows of test perplexity. Changes are relative to the system `reference`.

    scores: zero-shot scores that stand below, from the first of `measurements`.
    """

    rows: Sequence[Row]
    scores: Sequence[Score] = ()
    reference: str | None = None
    split: str = "test"
    trend: Trend | None = None


@dataclass(frozen=True, kw_only=True)
class Curves(Page):
    """Learning curves in panels: title of the panel -> label there -> system.

    A label looks alike in all panels.
    """

    panels: Mapping[str, Mapping[str, System]]


@dataclass(frozen=True, kw_only=True)
class ScoreTable(Page):
    """Zero-shot scores, a row a score and a column a system, from the first of `measurements`.

    A row's `paper_scores` are in the order of `scores`, then their mean.
    """

    rows: Sequence[Row]
    scores: Sequence[Score]


@dataclass(frozen=True, kw_only=True)
class RoutingFigure(Page):
    """Which experts a text goes to: heatmaps, activation against the threshold, groups of texts, and nulls.

    The first of `measurements`, for the systems by the label they have in the figures. text: what was read, and
    group: what its groups are. printed: what the paper prints for the activation ratio, by its label.
    """

    systems: Mapping[str, System]
    text: str
    group: str
    printed: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, kw_only=True)
class WordsFigure(Page):
    """Two groups of words and how many experts their sub-tokens reach: the first of `measurements`, by label.

    headings: of each comparison, by its key in the measured values. groups: what the two groups of the figure are,
    those of the comparison `senses`. text: what was read. explained: the table's columns and views.
    """

    systems: Mapping[str, System]
    headings: Mapping[str, str]
    groups: tuple[str, str]
    text: str
    explained: str


@dataclass(frozen=True, kw_only=True)
class Sweep(Page):
    """The learning rates that every system was given, and what came out on `valid`."""

    systems: Sequence[System]


@dataclass(frozen=True, kw_only=True)
class Sizes(Page):
    """Parameters and FLOPs of the systems at some scales, from the configs alone: nothing is run."""

    systems: Sequence[System]
    scales: Sequence[str]
    follow_up: Sequence[FollowUp] = ()


@dataclass(frozen=True, kw_only=True)
class Variation:
    """One thing changed, in the systems of a `Sensitivity`, in its order; None where it cannot be."""

    label: str
    systems: Sequence[System | None]


@dataclass(frozen=True, kw_only=True)
class Sensitivity(Page):
    """Does a choice decide the comparison? A row a variation, a column a system; the first is the reference.

    systems: label of the column -> the system as it is elsewhere. All on the scale's first seed.
    """

    systems: Mapping[str, System]
    variations: Sequence[Variation]


@dataclass(frozen=True, kw_only=True)
class PrintedModel:
    """A model whose parameters the paper prints; `system` is None where the paper does not determine it."""

    task: str
    label: str
    system: System | None
    paper: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PrintedSizes(Page):
    """The paper's table of parameters beside our counts, the cost under each reading for these numbers of
    experts, and the errata: from the configs at the paper scale and the printed numbers, nothing is run."""

    models: Sequence[PrintedModel]
    experts: Sequence[int]


Experiment = Table | Curves | ScoreTable | RoutingFigure | WordsFigure | Sweep | Sizes | PrintedSizes | Sensitivity
