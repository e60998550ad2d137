"""A page of a search: every system the same number of the same points, and what came out on `valid`.

Short runs with the tuning seed first, then the best of each system at full length with two seeds; the best of those is
the tuned system. The test split is never seen. How much a system owes to the number of trials is the expected best of n
of them (Dodge et al. 2019, arXiv 1909.03004).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.figures import Panel, trend_figure
from analysis.plotting import Point as PlotPoint
from analysis.tables import NOT_RUN, Column, Row, table_markdown
from experiments.report.captions import caption_of, setting_of
from experiments.report.looks import looks
from experiments.runner.page import Page, Section, unique
from experiments.runner.runs import Run, final_name
from experiments.runner.store import Records
from experiments.scales import SCALES, Scale
from experiments.settings import SPACE, Point, points, with_settings
from experiments.system import System

COLUMNS = (
    Column("label", "system"),
    Column("trials", "trials"),
    Column("median", "median of the short runs", ".2f"),
    Column("best_short", "best of them", ".2f"),
    Column("best_full", "best at full length", ".2f"),
    Column("settings", "its settings"),
)

Variant = tuple[str, str, Callable[[Point], System]]
"""Key, label, and a function of a point."""


@dataclass(frozen=True, kw_only=True)
class Search(Page):
    """bases: key -> a function of a point that gives the system, of which name and label are replaced. trials: points,
    or as many as the scale has, if those are fewer. kept: how many go on to full length. share: of a final run's steps,
    of the short runs. also: points of the published settings, trained at full length in any case; numbered after the
    trials."""

    bases: Mapping[str, Callable[[Point], System]] = field(hash=False)
    labels: Mapping[str, str] = field(hash=False)
    trials: int = 32
    kept: int = 3
    share: float = 1 / 4
    also: tuple[Point, ...] = ()

    def point(self, number: int) -> Point:
        return [*points(self.trials), *self.also][number]

    def numbers(self, scale: Scale) -> range:
        """Of the points that are tried at a scale; none where another scale's search counts."""
        return range(0 if scale.settled_at else min(self.trials, scale.trials))

    def trial(self, base: str, number: int) -> System:
        """What a base is at a point."""
        return _trial(self, base, number)

    def all_systems(self) -> list[System]:
        return unique([self.trial(base, number) for base in self.bases for number in self._all_numbers()])

    def _all_numbers(self) -> range:
        return range(self.trials + len(self.also))

    def runs(self, scale: Scale, seeds: Sequence[int], records: Records) -> list[Run]:
        """The short runs, point by point; then the full ones: the best of each base whose short runs are done."""
        short = [self.short(scale, base, number) for number in self.numbers(scale) for base in self.bases]
        kept = [(base, number) for base in self.bases for number in self.candidates(scale, base, records)]
        return short + [run for base, number in kept for run in self.full(scale, base, number)]

    def short(self, scale: Scale, base: str, number: int) -> Run:
        system = self.trial(base, number)
        return Run(
            name=f"{self.task}-{system.name}-lr{system.learning_rate:g}-seed{scale.tuning_seed}",
            scale=scale.for_task(self.task),
            task=self.task,
            system=system,
            seed=scale.tuning_seed,
            learning_rate=system.learning_rate,
            steps_share=self.share,
            tests=False,
        )

    def full(self, scale: Scale, base: str, number: int) -> list[Run]:
        system = self.trial(base, number)
        return [
            Run(
                name=final_name(self.task, system, seed),
                scale=scale.for_task(self.task),
                task=self.task,
                system=system,
                seed=seed,
                learning_rate=system.learning_rate,
                tests=False,
            )
            for seed in (scale.tuning_seed, scale.tuning_seed + 1)
        ]

    def gathered(self, scale: Scale) -> dict[str, list[Run]]:
        return {
            f"{self.slug}-{base}": [self.short(scale, base, number) for number in self.numbers(scale)]
            for base in self.bases
        }

    def losses(self, scale: Scale, base: str, records: Records) -> list[float | None]:
        """Nats per token on `valid` of the short runs, by point; None where one is not done."""
        found = [self.short(scale, base, number) for number in self.numbers(scale)]
        return [_loss([run], records) for run in found]

    def best(self, scale: Scale, base: str, records: Records) -> list[int]:
        """The points that go on; none while a short run is not done."""
        losses = self.losses(scale, base, records)
        known = [(loss, number) for number, loss in enumerate(losses) if loss is not None]
        return [number for _, number in sorted(known)[: self.kept]] if len(known) == len(losses) else []

    def candidates(self, scale: Scale, base: str, records: Records) -> list[int]:
        """The points of which the best at full length is chosen; not yet all while a short run is not done."""
        always = [*self._all_numbers()[self.trials :]] if self.numbers(scale) else []
        return self.best(scale, base, records) + always

    def chosen(self, scale: Scale, base: str, records: Records) -> int | None:
        """The point of the lowest mean loss at full length; None while a run is not done."""
        key = ("chosen", self.slug, base)
        if key not in records.settled:
            records.settled[key] = self._chosen(scale, base, records)
        return records.settled[key]

    def _chosen(self, scale: Scale, base: str, records: Records) -> int | None:
        if not self.best(scale, base, records):
            return None
        found = [(_loss(self.full(scale, base, n), records), n) for n in self.candidates(scale, base, records)]
        known = [(loss, number) for loss, number in found if loss is not None]
        return min(known)[1] if len(known) == len(found) else None

    def tuned(self, base: str, other: Variant | None = None, *, seeds: int | None = None) -> System:
        """The base at its best point, as a system of other pages.

        other: a system that takes the point of this base, such as one with more experts.
        """
        key, label, build = other or (base, self.labels[base], self.bases[base])
        layer = build(self.point(0)).layer
        return TunedSystem(
            f"{key}_tuned", f"{label}, tuned", layer, seeds, settled_by=self.slug, search=self, base=base, build=build
        )

    def section(self, scale: Scale, records: Records, folder: Path) -> Section | None:
        losses = {base: self.losses(scale, base, records) for base in self.bases}
        if all(loss is None for of_base in losses.values() for loss in of_base):
            return None
        numbers = self.numbers(scale)
        short = [self.short(scale, base, number) for base in self.bases for number in numbers]
        done = [records.by_name[run.name] for run in short if records.state(run) == "done"]
        rows = [self._row(scale, base, losses[base], records) for base in self.bases]
        also = " and the published settings" if self.also else ""
        lines = [
            *caption_of(done)[:1],
            f"Perplexity on `valid`. The same {len(numbers)} points for every system, {self.share:.0%} of a final "
            f"run's steps, seed {scale.tuning_seed}; the best {self.kept}{also} at full length, mean of seeds "
            f"{scale.tuning_seed} and {scale.tuning_seed + 1}. Settings that are not named are as published.",
        ]
        picture = f"{self.slug}_{scale.name}.png"
        whole = {base: found for base, found in losses.items() if None not in found}
        curves = {self.labels[base]: _expected_best(found) for base, found in whole.items()}
        page = table_markdown(COLUMNS, rows, caption=lines)
        if curves:
            trend_figure(
                [Panel("expected best perplexity on valid, short runs", curves)],
                folder / picture,
                title="What the best of n trials is worth",
                x_label="trials n",
                note=f"{setting_of(done)}. Expected best of n points drawn, with replacement, from the {len(numbers)}.",
                log_x=True,
                looks=looks({self.labels[base]: self.bases[base](self.point(0)) for base in whole}),
            )
            page += f"\n![The expected best of n trials]({picture})\n"
        if importance := _importance(whole, len(numbers)):
            page += "\n## What the factors are worth\n\n" + table_markdown(
                IMPORTANCE, importance, caption=[_IMPORTANCE]
            )
        return Section(page, COLUMNS, rows)

    def _row(self, scale: Scale, base: str, losses: Sequence[float | None], records: Records) -> Row:
        known = [loss for loss in losses if loss is not None]
        row: Row = {"label": self.labels[base], "trials": len(known), "best_full": NOT_RUN, "settings": NOT_RUN}
        if known:
            row |= {"median": math.exp(float(np.median(known))), "best_short": math.exp(min(known))}
        if (number := self.chosen(scale, base, records)) is not None:
            loss = _loss(self.full(scale, base, number), records)
            assert loss is not None
            row |= {"best_full": math.exp(loss), "settings": _described(self.point(number))}
        return row


@dataclass(frozen=True)
class TunedSystem(System):
    """A system that a search settles: its sizes, settings and learning rate are those of the best point.

    On other text than the committed one they are those of the committed search, until one was done on that text.
    """

    search: Search | None = field(default=None, repr=False, compare=False)
    base: str = ""
    build: Callable[[Point], System] | None = field(default=None, repr=False, compare=False)

    def chosen(self, records: Records) -> System | None:
        assert self.search is not None and self.build is not None
        scale = SCALES[records.scale.settled_at] if records.scale.settled_at else records.scale
        searched = records if scale is records.scale else records.at(scale)
        number = self.search.chosen(scale, self.base, searched)
        if number is None and (committed := searched.committed()) is not None:
            number = self.search.chosen(scale, self.base, committed)
        if number is None:
            return None
        point = self.search.point(number)
        settled = with_settings(self.build(point), point, self.name, self.label)
        return dataclasses.replace(settled, seeds=self.seeds, steps=self.steps)


IMPORTANCE = (
    Column("factor", "factor"),
    Column("effect", "effect, nats a token", "+.4f"),
    Column("low", "low", "+.4f"),
    Column("high", "high", "+.4f"),
    Column("of", "between"),
)
_IMPORTANCE = (
    "The difference in mean loss between the halves of a factor's range, or between its last value and its first, over "
    "all systems, each less its own mean; negative where the second is better. Intervals (95%) by drawing points anew. "
    "Main effects alone: a factor that matters in company only shows nothing here."
)


@functools.cache
def _trial(search: Search, base: str, number: int) -> System:
    point, name = search.point(number), f"{base}_t{number:02d}"
    return with_settings(search.bases[base](point), point, name, f"{search.labels[base]}, point {number}")


def _loss(runs: Sequence[Run], records: Records) -> float | None:
    """Mean nats per token on `valid`; None unless all are done."""
    if any(records.state(run) != "done" for run in runs):
        return None
    return float(np.mean([records.by_name[run.name].metrics["valid"]["nll_per_token"] for run in runs]))


def _expected_best(losses: Sequence[float | None]) -> list[PlotPoint]:
    """Expected lowest perplexity of n draws with replacement, for n of 1, 2, 4, ... up to the number of trials."""
    ordered = np.sort(np.exp(np.array(losses, dtype=float)))
    n = 2 ** np.arange(len(ordered).bit_length())
    worse = 1 - np.arange(len(ordered) + 1) / len(ordered)  # probability that one draw is none of the i best
    chance = worse[:-1, None] ** n - worse[1:, None] ** n  # [i, n]: the i-th best is the best of n
    expected = ordered @ chance
    return [PlotPoint(float(x), float(y), float(y), float(y), len(ordered)) for x, y in zip(n, expected, strict=True)]


def _importance(losses: Mapping[str, Sequence[float | None]], trials: int, draws: int = 2000) -> list[Row]:
    """Main effects, the largest first."""
    if not losses:
        return []
    table = np.array([list(of_base) for of_base in losses.values()], dtype=float)
    mean = (table - table.mean(axis=1, keepdims=True)).mean(axis=0)  # [points]
    generator = np.random.default_rng(0)
    rows: list[Row] = []
    for factor, values in SPACE.items():
        of_point = [getattr(p, factor) if hasattr(p, factor) else getattr(p.settings, factor) for p in points(trials)]
        if isinstance(values, list):
            first, second = (np.array([v == end for v in of_point]) for end in (values[0], values[-1]))
            between = f"{values[0]}, {values[-1]}"
        else:
            middle = math.sqrt(values[0] * values[1])
            second = np.array([v >= middle for v in of_point])
            first, between = ~second, f"below, above {middle:.2g}"
        drawn = generator.integers(trials, size=(draws, trials))
        effects = [_difference(mean[d], first[d], second[d]) for d in drawn]
        low, high = np.nanquantile(effects, [0.025, 0.975])
        effect = _difference(mean, first, second)
        rows.append({"factor": factor, "effect": effect, "low": float(low), "high": float(high), "of": between})
    return sorted(rows, key=lambda row: -abs(row["effect"]))


def _difference(values: NDArray[np.float64], first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    return float(values[second].mean() - values[first].mean()) if first.any() and second.any() else math.nan


def _described(point: Point) -> str:
    """What differs from what is published."""
    default = {f.name: f.default for f in dataclasses.fields(point.settings)}
    changed = {name: value for name, value in vars(point.settings).items() if value != default[name]}
    parts = {"learning rate": point.learning_rate, "parts": point.parts, "choices": point.choices, **changed}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in parts.items())
