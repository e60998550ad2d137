"""A system: one row of the tables, with the feed-forward config that it has at a scale."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.scales import Scale
from mhmoe.layers.config import LayerConfig


@dataclass(frozen=True)
class System:
    """One row: a name for records, a label for people, and the feed-forward config it has at a scale.

    layer: gives the config of the MoE blocks, or None for a dense model. seeds: limits the final runs to
    the first so many of the scale's seeds. feed_forward: the config of the other blocks, if not the scale's dense one.
    learning_rate: if it is not to be chosen. model, training: replace arguments of the scale's. tuned_as: the
    system whose learning rate it takes, times `lr_multiplier`; None for one that is tuned itself. matching: under
    which reading it is of X-MoE's size; "" for X-MoE itself and for dense models. role: how it looks in figures
    (looks.py); "" takes what is free there. num_experts: of the X-MoE whose size it has; None for dense models.
    settled_by: the page whose runs settle what is trained as this system; "" if it is settled here. steps: times those
    of the scale. gates_itself: its gate is a part of what it is, which settings leave alone. seen: (task, scale, seed)
    of runs whose `test` had a part in the choice of its settings: these are no final runs.
    """

    name: str
    label: str
    layer: Callable[[Scale], LayerConfig | None] = field(repr=False, hash=False, compare=False)
    seeds: int | None = None
    model: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    training: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    feed_forward: Callable[[Scale], LayerConfig] | None = field(default=None, repr=False, hash=False, compare=False)
    learning_rate: float | None = None
    tuned_as: "System | None" = field(default=None, repr=False)
    lr_multiplier: float = 1.0
    matching: str = ""
    role: str = ""
    num_experts: int | None = None
    settled_by: str = ""
    steps: float = 1.0
    gates_itself: bool = False
    seen: tuple[tuple[str, str, int], ...] = ()

    @property
    def arm(self) -> str:
        """How it is trained, in the ledger's words."""
        return "tuned" if self.settled_by else "published"

    def chosen(self, records: Any) -> "System | None":
        """What is trained as this system, by what the records say; None while they do not. Itself, but for systems
        that a search settles."""
        return self

    def final_seeds(self, scale: Scale, task: str, seeds: Sequence[int]) -> list[int]:
        """Of these the ones that its final runs have."""
        return [seed for seed in seeds if (task, scale.name, seed) not in self.seen][: self.seeds]

    def at(self, scale: Scale) -> Scale:
        """The scale with this system's own arguments of model and training."""
        model, training = {**scale.model, **self.model}, {**scale.training, **self.training}
        training["steps"] = round(self.steps * training["steps"])
        return dataclasses.replace(scale, model=model, training=training)
