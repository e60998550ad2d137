"""A page of a search: what its rounds tried and chose, and what the factors are worth.

How much a system owes to the number of trials is the expected best of n of them (Dodge et al. 2019, arXiv 1909.03004).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.figures import Panel, trend_figure
from analysis.plotting import Point as PlotPoint
from analysis.tables import NOT_RUN, NOTHING, Column, Row, table_markdown
from experiments.kinds.rounds import Round, Rounds
from experiments.report.captions import caption_of, setting_of
from experiments.report.looks import looks
from experiments.runner.page import Section
from experiments.runner.store import Records
from experiments.scales import Scale
from experiments.settings import Point
from mhmoe.layers.config import LayerConfig
from mhmoe.layers.experts import FeedForwardConfig
from mhmoe.layers.multi_head import MultiHeadConfig
from mhmoe.layers.normed import NormedConfig
from mhmoe.layers.per_head import PerHeadRouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig

Losses = Mapping[str, Sequence[float | None]]


COLUMNS = (
    Column("label", "system"),
    Column("round", "round"),
    Column("trials", "trials"),
    Column("median", "median of the short runs", ".2f"),
    Column("best_short", "best of them", ".2f"),
    Column("best_full", "best at full length", ".2f"),
    Column("sizes", "its sizes"),
    Column("settings", "its settings"),
)


@dataclass(frozen=True, kw_only=True)
class Search(Rounds):
    """names: labels for the figure, of which several stand beside each other."""

    names: Mapping[str, str] = field(hash=False)

    def section(self, scale: Scale, records: Records, folder: Path) -> Section | None:
        short = [run for runs in self.gathered(scale).values() for run in runs]
        done = [records.by_name[run.name] for run in short if records.state(run) == "done"]
        if not done:
            return None
        losses = {n: {b: self.losses(scale, b, r, records) for b in self.bases} for n, r in enumerate(self.rounds, 1)}
        rows = [self._row(scale, base, n, of[base], records) for base in self.bases for n, of in losses.items()]
        page = table_markdown(COLUMNS, rows, caption=[*caption_of(done)[:1], self._caption(scale)])
        whole = {n: {base: found for base, found in of.items() if None not in found} for n, of in losses.items()}
        if any(whole.values()):
            picture = f"{self.slug}_{scale.name}.png"
            trend_figure(
                [
                    Panel(f"round {n}: perplexity on valid", {self.names[b]: _expected_best(of[b]) for b in of})
                    for n, of in whole.items()
                    if of
                ],
                folder / picture,
                title="What the best of n trials is worth",
                x_label="trials n",
                note=f"{setting_of(done)}. Short runs. Expected best of n points drawn, with replacement.",
                log_x=True,
                looks=looks({self.names[base]: self.bases[base](self.point(0)) for base in self.bases}),
            )
            page += f"\n![The expected best of n trials]({picture})\n"
        for n, round_ in enumerate(self.rounds, 1):
            if importance := _importance(whole[n], round_, len(self.numbers(scale, round_))):
                page += f"\n## What the factors are worth in round {n}\n\n"
                page += table_markdown(IMPORTANCE, importance, caption=[_IMPORTANCE])
        return Section(page, COLUMNS, rows)

    def _caption(self, scale: Scale) -> str:
        rounds = "; ".join(
            f"round {n}: {len(self.numbers(scale, round_))} points, {round_.share:.0%} of a final run's steps; the "
            f"best {round_.kept} go on, and with them {len(round_.also)} named beforehand"
            for n, round_ in enumerate(self.rounds, 1)
        )
        first, second = scale.tuning_seeds
        settling = "the best of all rounds"
        if self.settling < len(self.rounds):
            settling = f"still those of round {self.settling}"
        return (
            f"Perplexity on `valid`. The same points for every system, seed {first}: {rounds}. Full length "
            f"is the mean of seeds {first} and {second}. Tuned systems of other pages are "
            f"{settling}. Settings that are not named are as published."
        )

    def _row(self, scale: Scale, base: str, n: int, losses: Sequence[float | None], records: Records) -> Row:
        known = [loss for loss in losses if loss is not None]
        row: Row = {"round": n, "label": self.labels[base], "trials": len(known)}
        row |= dict.fromkeys(("median", "best_short", "best_full", "sizes", "settings"), NOT_RUN)
        if known:
            row |= {"median": math.exp(float(np.median(known))), "best_short": math.exp(min(known))}
        if (found := self.best_of(scale, base, self.rounds[n - 1], records)) is not None:
            loss, number = found
            sizes, settings = _sizes(self.trial(base, number).layer(scale)), _described(self.point(number))
            row |= {"best_full": math.exp(loss), "sizes": sizes, "settings": settings}
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


def _sizes(layer: LayerConfig | None) -> str:
    """Heads, experts, their width and how many are chosen."""
    if isinstance(layer, NormedConfig):
        return _sizes(layer.inner)
    if isinstance(layer, MultiHeadConfig):
        return f"h = {layer.heads}, {_sizes(layer.inner)}"
    if isinstance(layer, FeedForwardConfig):
        return f"width {layer.inner_dim}"
    if not isinstance(layer, SparseMoEConfig):
        return NOTHING  # no layer
    router, experts = layer.router, layer.experts
    heads = router.heads if isinstance(router, PerHeadRouterConfig) else 1
    each = " for each head" if heads > 1 else ""
    return f"{experts.num_experts // heads} experts{each} of width {experts.expert_dim}, k = {router.top_k}"


def _described(point: Point) -> str:
    """What differs from what is published."""
    default = {f.name: f.default for f in dataclasses.fields(point.settings)}
    changed = {name: value for name, value in vars(point.settings).items() if value != default[name]}
    parts = {"learning rate": point.learning_rate, **changed}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in parts.items())
