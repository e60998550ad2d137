"""A search in rounds: every system the same points, tokens and seeds, and the best by `valid` is the tuned one.

A round tries its points in short runs with the tuning seed; the best of each system, and the points named beforehand,
go on to full length with two seeds. The best of all rounds that settle is the tuned system. None of its runs sees the
test split.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from experiments.runner.page import Page, unique
from experiments.runner.runs import Run
from experiments.runner.store import Records
from experiments.scales import SCALES, Scale
from experiments.settings import Point, Space, points, with_settings
from experiments.system import System

Variant = tuple[str, str, Callable[[Point], System]]
"""Key, label, and a function of a point."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """space: what its points are of. trials: points, or as many as the scale has, if those are fewer. share: of a final
    run's steps, of the short runs. kept: how many go on to full length. also: points that go on in any case. seed: of
    the points."""

    space: Space = field(hash=False)
    trials: int
    share: float
    kept: int = 3
    also: tuple[Point, ...] = ()
    seed: int = 0

    def tried(self, scale: Scale) -> range:
        """The points of its own that are tried at a scale; none where another scale's search counts."""
        return range(0 if scale.settled_at else min(self.trials, scale.trials))

    def points(self) -> list[Point]:
        return [*points(self.trials, self.space, self.seed), *self.also]

    def size(self) -> int:
        return self.trials + len(self.also)


@dataclass(frozen=True, kw_only=True)
class Rounds(Page):
    """bases: key -> a function of a point that gives the system, of which name and label are replaced. Points are
    numbered through the rounds; in each its own trials stand before those that go on in any case. settling: how many
    rounds the tuned systems are the best of; the others' runs are planned and shown, and settle nothing yet."""

    bases: Mapping[str, Callable[[Point], System]] = field(hash=False)
    labels: Mapping[str, str] = field(hash=False)
    rounds: tuple[Round, ...]
    settling: int

    def point(self, number: int) -> Point:
        return self._points[number]

    @functools.cached_property
    def _points(self) -> list[Point]:
        return [point for round_ in self.rounds for point in round_.points()]

    def first(self, round_: Round) -> int:
        """The number of a round's first point."""
        return sum(before.size() for before in self.rounds[: self.rounds.index(round_)])

    def _round_of(self, number: int) -> Round:
        return next(round_ for round_ in reversed(self.rounds) if self.first(round_) <= number)

    def numbers(self, scale: Scale, round_: Round) -> range:
        """Of the points of a round that are tried at a scale."""
        first = self.first(round_)
        return range(first, first + len(round_.tried(scale)))

    def trial(self, base: str, number: int) -> System:
        """What a base is at a point."""
        return _trial(self, base, number)

    def all_systems(self) -> list[System]:
        return unique([self.trial(base, number) for base in self.bases for number in range(len(self._points))])

    def runs(self, scale: Scale, seeds: Sequence[int], records: Records) -> list[Run]:
        """The short runs, round by round and point by point; then the full ones: the best of each base in each round
        whose short runs are done."""
        short = [
            self.short(scale, base, number)
            for round_ in self.rounds
            for number in self.numbers(scale, round_)
            for base in self.bases
        ]
        kept = [
            (base, number)
            for round_ in self.rounds
            for base in self.bases
            for number in self.candidates(scale, base, round_, records)
        ]
        return short + [run for base, number in kept for run in self.full(scale, base, number)]

    def short(self, scale: Scale, base: str, number: int) -> Run:
        return self._run(scale, base, number, scale.tuning_seeds[0], self._round_of(number).share)

    def full(self, scale: Scale, base: str, number: int) -> list[Run]:
        return [self._run(scale, base, number, seed) for seed in scale.tuning_seeds]

    def _run(self, scale: Scale, base: str, number: int, seed: int, share: float | None = None) -> Run:
        """share: of the steps, of a short run, which has the learning rate in its name."""
        system = self.trial(base, number)
        rate = "" if share is None else f"-lr{system.learning_rate:g}"
        return Run(
            name=f"{self.task}-{system.name}{rate}-seed{seed}",
            scale=scale.for_task(self.task),
            task=self.task,
            system=system,
            seed=seed,
            learning_rate=system.learning_rate,
            steps_share=share or 1.0,
            tests=False,
        )

    def gathered(self, scale: Scale) -> dict[str, list[Run]]:
        """One file a base and round, the first round's without its number."""
        return {
            "-".join([self.slug, base, *[str(i)] * (i > 1)]): [
                self.short(scale, base, number) for number in self.numbers(scale, round_)
            ]
            for base in self.bases
            for i, round_ in enumerate(self.rounds, 1)
        }

    def losses(self, scale: Scale, base: str, round_: Round, records: Records) -> list[float | None]:
        """Nats per token on `valid` of a round's short runs, by point; None where one is not done."""
        found = [self.short(scale, base, number) for number in self.numbers(scale, round_)]
        return [loss_of([run], records) for run in found]

    def best(self, scale: Scale, base: str, round_: Round, records: Records) -> list[int]:
        """The points of a round that go on; none while a short run is not done."""
        losses = self.losses(scale, base, round_, records)
        known = [(loss, n) for n, loss in zip(self.numbers(scale, round_), losses, strict=True) if loss is not None]
        return [number for _, number in sorted(known)[: round_.kept]] if len(known) == len(losses) else []

    def candidates(self, scale: Scale, base: str, round_: Round, records: Records) -> list[int]:
        """The points of a round that are trained at full length; not yet all while a short run is not done."""
        first = self.first(round_)
        named = [] if scale.settled_at else range(first + round_.trials, first + round_.size())
        return [*self.best(scale, base, round_, records), *named]

    def best_of(self, scale: Scale, base: str, round_: Round, records: Records) -> tuple[float, int] | None:
        """The lowest mean loss of a round at full length, and its point; None while a run is not done."""
        if not self.best(scale, base, round_, records):
            return None
        candidates = self.candidates(scale, base, round_, records)
        found = [(loss_of(self.full(scale, base, n), records), n) for n in candidates]
        known = [(loss, number) for loss, number in found if loss is not None]
        return min(known) if len(known) == len(found) else None

    def chosen(self, scale: Scale, base: str, records: Records) -> int | None:
        """The best point of the rounds that settle; None while one of their runs is not done."""
        key = ("chosen", self.slug, base)
        if key not in records.settled:
            found = [self.best_of(scale, base, round_, records) for round_ in self.rounds[: self.settling]]
            known = [each for each in found if each is not None]
            records.settled[key] = min(known)[1] if len(known) == len(found) else None
        return records.settled[key]

    def tuned(
        self,
        base: str,
        other: Variant | None = None,
        *,
        seeds: int | None = None,
        own_rate: bool = False,
        rate_times: float = 1.0,
    ) -> System:
        """The base at its best point, as a system of other pages.

        other: a system that takes the point of this base, such as one with more experts. own_rate: its learning rate
        is chosen from the scale's grid, as those of untuned systems are, on the text that it is trained on; and taken
        `rate_times`.
        """
        key, label, build = other or (base, self.labels[base], self.bases[base])
        layer = build(self.point(0)).layer
        times = "" if rate_times == 1 else f"{rate_times:g}"
        return TunedSystem(
            f"{key}_tuned" + (f"_lr{times}" if own_rate else ""),
            f"{label}, tuned" + (f", {times} x its rate" if times else ""),
            layer,
            seeds,
            settled_by=self.slug,
            search=self,
            base=base,
            build=build,
            own_rate=own_rate,
            rate_times=rate_times,
        )


@dataclass(frozen=True)
class TunedSystem(System):
    """A system that a search settles: its sizes, settings and learning rate are those of the best point.

    On other text than the committed one they are those of the committed search, until one was done on that text.
    own_rate: the learning rate is not of the point, and rate_times the chosen one.
    """

    search: Rounds | None = field(default=None, repr=False, compare=False)
    base: str = ""
    build: Callable[[Point], System] | None = field(default=None, repr=False, compare=False)
    own_rate: bool = False
    rate_times: float = 1.0

    def chosen(self, records: Records) -> System | None:
        assert self.search is not None and self.build is not None
        scale = SCALES[records.scale.settled_at] if records.scale.settled_at else records.scale
        searched = records if scale is records.scale else records.at(scale)
        number = self.search.chosen(scale, self.base, searched)
        if number is None and (committed := searched.committed()) is not None:
            number = self.search.chosen(scale, self.base, committed)
        return None if number is None else _settled(self, self.search, self.build, number)


@functools.cache
def _settled(system: TunedSystem, search: Rounds, build: Callable[[Point], System], number: int) -> System:
    """One for all who ask: what is kept of a system elsewhere is kept by the functions that make its layers."""
    point = search.point(number)
    settled = with_settings(build(point), point, system.name, system.label)
    settled = dataclasses.replace(settled, seeds=system.seeds, steps=system.steps)
    if not system.own_rate:
        return settled
    settled = dataclasses.replace(settled, learning_rate=None)
    if system.rate_times == 1:
        return settled
    grid = dataclasses.replace(settled, name=system.name.removesuffix(f"{system.rate_times:g}"))
    return dataclasses.replace(settled, tuned_as=grid, lr_multiplier=system.rate_times)


@functools.cache
def _trial(search: Rounds, base: str, number: int) -> System:
    point, name = search.point(number), f"{base}_t{number:02d}"
    return with_settings(search.bases[base](point), point, name, f"{search.labels[base]}, point {number}")


def loss_of(runs: Sequence[Run], records: Records) -> float | None:
    """Mean nats per token on `valid`; None unless all are done."""
    if any(records.state(run) != "done" for run in runs):
        return None
    return float(np.mean([records.by_name[run.name].metrics["valid"]["nll_per_token"] for run in runs]))
