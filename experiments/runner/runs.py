"""A training run: what it is called, and the configs that determine its numbers."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from experiments.layers import dense_layer
from experiments.scales import Scale
from experiments.system import System
from mhmoe.io import UserError
from mhmoe.model.config import MHMoEConfig
from mhmoe.training.config import Sharding, TrainingConfig, identity


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
    waits_for: str = ""
    """What must be run first, as `run` is told; what is trained here is not settled yet."""


def model_config(scale: Scale, system: System) -> MHMoEConfig:
    scale = system.at(scale)
    layer = system.layer(scale)
    return MHMoEConfig(
        **scale.model,
        feed_forward=(system.feed_forward or dense_layer)(scale).to_dict(),
        moe=None if layer is None else layer.to_dict(),
    )


def training_config(run: Run) -> TrainingConfig:
    """Raises UserError while the learning rate is not chosen yet."""
    if run.learning_rate is None:
        first = run.waits_for or f"learning_rates --scale {run.scale.name}"
        raise UserError(
            f"{run.name}: no learning rate is chosen yet for {run.system.name} at scale {run.scale.name}; "
            f"run `python -m experiments run {first}` first"
        )
    arguments = dict(run.system.at(run.scale).training)
    arguments["steps"] = round(arguments["steps"] * run.steps_share)
    return TrainingConfig(**arguments, learning_rate=run.learning_rate)


def run_config(
    run: Run, data: Mapping[str, Any], processes: int = 1, sharding: Sharding | None = None
) -> dict[str, Any]:
    """All that determines the run's numbers but its seed; `data` is the packed text's fingerprint."""
    system = run.system
    model = _model_config(run.scale, system, system.layer, system.feed_forward)
    return identity(model, training_config(run), data, processes, sharding)


@functools.cache
def _model_config(scale: Scale, system: System, *_: object) -> MHMoEConfig:
    """Made once for all seeds and rates, and given to nobody who might change it. Two systems are equal whatever their
    functions are, so these are told apart beside them."""
    return model_config(scale, system)


def tuning_runs(scale: Scale, task: str, system: System) -> Iterator[Run]:
    """One run for every rate of the grid; they never see the test split."""
    scale = scale.for_task(task)
    if system.tuned_as is not None:
        yield from tuning_runs(scale, task, system.tuned_as)
        return
    if system.settled_by or system.learning_rate is not None or len(scale.learning_rates) < 2:
        return
    for rate in scale.learning_rates:
        yield Run(
            name=f"{task}-{system.name}-lr{rate:g}-seed{scale.tuning_seeds[0]}",
            scale=scale,
            task=task,
            system=system,
            seed=scale.tuning_seeds[0],
            learning_rate=rate,
            steps_share=scale.tuning_share,
            tests=False,
        )


def final_name(task: str, system: System, seed: int) -> str:
    return f"{task}-{system.name}-seed{seed}"
