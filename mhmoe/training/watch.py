"""Watching a run: what the loop tells while it trains. No number of the run depends on it.

Every so many steps a `Step`, and at each point of the curve an `Evaluated`, which also says what no step computes: how
alike the experts of each layer are (model/alike.py), and which share of the selections a capacity drops in training,
both of the same few windows of `valid`. A watcher is any class with some of the four methods of `Watcher`:

    class Printer(Watcher):
        def on_step(self, step):
            print(step.step, step.task_loss)

    with Watch(Printer(), every=10) as watch:
        train(model, text, config, seed=1, watch=watch)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor

from mhmoe.data.batches import EvaluationSet
from mhmoe.fields import Count, check_value
from mhmoe.model.alike import alike
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.config import parts
from mhmoe.training.record_checks import Point

PROBED = 2  # windows of valid


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one step did. Losses in nats; seconds of training until now; tokens_per_second since the last that was told.

    loads: of each MoE layer, of each expert: the fraction of the step's selections that it got.
    """

    step: int
    tokens: int
    seconds: float
    task_loss: float
    balance_loss: float
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float
    loads: list[list[float]]


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A point of the curve. alike, dropped: of each MoE layer; empty where there are none, or the model is sharded.

    None of a layer in which no row has an output of every expert.
    """

    point: Point
    alike: list[float | None]
    dropped: list[float]


class Watcher:
    """Is told of a run; what it does not want to know it leaves as it is here."""

    def on_begin(self, step: int) -> None:
        """The run has done so many steps: not 0 where it goes on from a checkpoint."""

    def on_step(self, step: Step) -> None: ...

    def on_evaluation(self, found: Evaluated) -> None: ...

    def on_end(self) -> None:
        """Of the run, finished or not."""


class Watch:
    """Some watchers, told every `every` steps. As a context it tells them the end.

    Of several processes all need one with the same `every`; those that show nothing give it no watchers.
    """

    def __init__(self, *watchers: Watcher, every: int = 10) -> None:
        check_value("every", every, Count)
        self.watchers, self.every = watchers, every
        self._told = (0.0, 0)

    def begin(self, step: int, seconds: float, tokens: int) -> None:
        """So much was done before."""
        self._told = (seconds, tokens)
        for watcher in self.watchers:
            watcher.on_begin(step)

    def wants(self, step: int, last: int) -> bool:
        """Whether this step is told, of which `last` is the run's last."""
        return step % self.every == 0 or step == last

    def step(
        self,
        *,
        step: int,
        tokens: int,
        seconds: float,
        losses: Sequence[float],
        learning_rate: float,
        norm: float,
        loads: Sequence[Tensor],
    ) -> None:
        """losses: of the task and of the balance, over all processes."""
        if not self.watchers:
            return
        earlier, before = self._told
        self._told = (seconds, tokens)
        told = Step(
            step=step,
            tokens=tokens,
            seconds=seconds,
            task_loss=losses[0],
            balance_loss=losses[1],
            learning_rate=learning_rate,
            gradient_norm=norm,
            tokens_per_second=(tokens - before) / max(seconds - earlier, 1e-9),
            loads=[load.tolist() for load in loads],
        )
        for watcher in self.watchers:
            watcher.on_step(told)

    def evaluated(self, point: Point, model: MHMoEForCausalLM | None, text: EvaluationSet, length: int) -> None:
        """model: None where it lies on several processes, of which one alone cannot run it."""
        if not self.watchers:
            return
        found = Evaluated(point=point, alike=[], dropped=[])
        if model is not None:
            windows = torch.from_numpy(text.first(PROBED * length).windows(length)[0][:PROBED])
            found = Evaluated(point=point, alike=_alike(model, windows), dropped=_dropped(model, windows))
        for watcher in self.watchers:
            watcher.on_evaluation(found)

    def __enter__(self) -> "Watch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for watcher in self.watchers:
            watcher.on_end()


def _alike(model: MHMoEForCausalLM, windows: Tensor) -> list[float | None]:
    was_training = model.training
    try:
        return [None if math.isnan(cosine) else cosine for cosine in alike(model, windows)]
    finally:
        model.train(was_training)


@torch.no_grad()
def _dropped(model: MHMoEForCausalLM, windows: Tensor) -> list[float]:
    """Of each MoE layer, the share of the selections that do not count in training."""
    if not any((part.mixes_rows and not part.looks_ahead) or part.draws for part in parts(model.config)):
        return [0.0] * sum(model.config.is_moe_block(block) for block in range(model.config.num_hidden_layers))
    device, was_training = model.device, model.training
    model.train()
    try:
        with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type):
            torch.manual_seed(0)
            routing = model(windows.to(device), output_routing=True).routing
        return [1 - float(layer.kept.double().mean()) for layer in routing]
    finally:
        model.train(was_training)
