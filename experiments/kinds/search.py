"""A page of a search: what its rounds tried and chose, and what the factors are worth.

How much a system owes to the number of trials is the expected best of n of them (Dodge et al. 2019, arXiv 1909.03004).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.figures import Panel, trend_figure
from analysis.plotting import Point as PlotPoint
from analysis.tables import NOT_RUN, Column, Row, table_markdown
from experiments.kinds.rounds import Round, Rounds, loss_of
from experiments.report.captions import caption_of, setting_of
from experiments.report.looks import looks
from experiments.runner.page import Section
from experiments.runner.store import Records
from experiments.scales import Scale
from experiments.settings import Point

Losses = Mapping[str, Sequence[float | None]]


@dataclass(frozen=True, kw_only=True)
class Search(Rounds):
    def section(self, scale: Scale, records: Records, folder: Path) -> Section | None:
        rounds = {
            number: {base: self.losses(scale, base, round_, records) for base in self.bases}
            for number, round_ in enumerate(self.rounds, 1)
        }
        short = [run for runs in self.gathered(scale).values() for run in runs]
        done = [records.by_name[run.name] for run in short if records.state(run) == "done"]
        if not done:
            return None
        columns = self._columns()
        rows = [self._row(scale, base, {n: of[base] for n, of in rounds.items()}, records) for base in self.bases]
        page = table_markdown(columns, rows, caption=[*caption_of(done)[:1], self._caption(scale)])
        whole = {
            n: {base: found for base, found in of.items() if found and None not in found} for n, of in rounds.items()
        }
        if any(whole.values()):
            picture = f"{self.slug}_{scale.name}.png"
            trend_figure(
                [
                    Panel(
                        f"round {n}: expected best perplexity on valid",
                        {self.labels[base]: _expected_best(found) for base, found in of.items()},
                    )
                    for n, of in whole.items()
                    if of
                ],
                folder / picture,
                title="What the best of n trials is worth",
                x_label="trials n",
                note=f"{setting_of(done)}. Short runs. Expected best of n points drawn, with replacement.",
                log_x=True,
                looks=looks({self.labels[base]: self.bases[base](self.point(0)) for base in self.bases}),
            )
            page += f"\n![The expected best of n trials]({picture})\n"
        for number, round_ in enumerate(self.rounds, 1):
            if importance := _importance(whole[number], round_, len(self.numbers(scale, round_))):
                page += f"\n## What the factors are worth in round {number}\n\n" + table_markdown(
                    IMPORTANCE, importance, caption=[_IMPORTANCE] if number == 1 else []
                )
        return Section(page, columns, rows)

    def _columns(self) -> tuple[Column, ...]:
        return (
            Column("label", "system"),
            *(
                column
                for n in range(1, len(self.rounds) + 1)
                for column in (
                    Column(f"trials_{n}", f"round {n}: trials"),
                    Column(f"median_{n}", "median", ".2f"),
                    Column(f"best_{n}", "best", ".2f"),
                )
            ),
            Column("best_full", "best at full length", ".2f"),
            Column("settings", "its settings"),
        )

    def _caption(self, scale: Scale) -> str:
        rounds = "; ".join(
            f"round {n}, {len(self.numbers(scale, round_))} points, {round_.share:.0%} of a final run's steps, of "
            f"which the best {round_.kept} and {len(round_.also)} named beforehand go on"
            for n, round_ in enumerate(self.rounds, 1)
        )
        return (
            f"Perplexity on `valid`. The same points for every system, seed {scale.tuning_seed}: {rounds} to full "
            f"length, mean of seeds {scale.tuning_seed} and {scale.tuning_seed + 1}. Settings that are not named are "
            "as published."
        )

    def _row(self, scale: Scale, base: str, rounds: Mapping[int, Sequence[float | None]], records: Records) -> Row:
        row: Row = {"label": self.labels[base], "best_full": NOT_RUN, "settings": NOT_RUN}
        for n, losses in rounds.items():
            known = [loss for loss in losses if loss is not None]
            row |= {f"trials_{n}": len(known), f"median_{n}": NOT_RUN, f"best_{n}": NOT_RUN}
            if known:
                row |= {f"median_{n}": math.exp(float(np.median(known))), f"best_{n}": math.exp(min(known))}
        if (number := self.chosen(scale, base, records)) is not None:
            loss = loss_of(self.full(scale, base, number), records)
            assert loss is not None
            row |= {"best_full": math.exp(loss), "settings": _described(self.point(number))}
        return row


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


def _expected_best(losses: Sequence[float | None]) -> list[PlotPoint]:
    """Expected lowest perplexity of n draws with replacement, for n of 1, 2, 4, ... up to the number of trials."""
    ordered = np.sort(np.exp(np.array(losses, dtype=float)))
    n = 2 ** np.arange(len(ordered).bit_length())
    worse = 1 - np.arange(len(ordered) + 1) / len(ordered)  # probability that one draw is none of the i best
    chance = worse[:-1, None] ** n - worse[1:, None] ** n  # [i, n]: the i-th best is the best of n
    expected = ordered @ chance
    return [PlotPoint(float(x), float(y), float(y), float(y), len(ordered)) for x, y in zip(n, expected, strict=True)]


def _importance(losses: Losses, round_: Round, trials: int, draws: int = 2000) -> list[Row]:
    """Main effects, the largest first."""
    if not losses:
        return []
    table = np.array([list(of_base) for of_base in losses.values()], dtype=float)
    mean = (table - table.mean(axis=1, keepdims=True)).mean(axis=0)  # [points]
    generator = np.random.default_rng(0)
    rows: list[Row] = []
    tried = round_.points()[:trials]
    for factor, values in round_.space.items():
        of_point = [getattr(p, factor) if hasattr(p, factor) else getattr(p.settings, factor) for p in tried]
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
