"""What is claimed of words of several senses (v1 Section 5.2), on any text: one group's mean above the other's."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from analysis.measured_claims import MeasuredClaim, Quantity, Side, Values
from experiments.recipes import mhmoe
from experiments.schema import System, WordsFigure

HEADS = 8
SEEDS = 5  # with fewer, no difference between words could pass the correction for so many claims
SYSTEMS: dict[str, System] = {
    f"MH-MoE, h = {HEADS}": mhmoe(8, "parameters", HEADS, seeds=SEEDS),
    f"MH-MoE, h = {HEADS}, equal FLOPs": mhmoe(8, "compute", HEADS, seeds=SEEDS),
}
EXPERTS, SHARE = "experts", "share of sub-tokens"
PAPER = "v1 Section 5.2"


class WordClaim(NamedTuple):
    """That the first group's mean is above the second's in a comparison of the measured values, seen in a view.

    unit: of the values. source: who says so. beside: another comparison, whose difference is to be exceeded.
    """

    comparison: str
    view: str
    statement: str
    unit: str
    source: str
    beside: str | None = None


def _mean(comparison: str, view: str, unit: str, side: int) -> Quantity:
    """Of the first (0) or second (1) group."""

    def of(values: Values) -> float | None:
        means = values[comparison][view].get("mean") if values else None
        return None if means is None else means[side]

    return Quantity(name=f"{comparison}, {view}, group {side + 1}", unit=unit, of=of)


def _difference(comparison: str, view: str, unit: str) -> Quantity:
    def of(values: Values) -> float | None:
        return values[comparison][view]["difference"] if values else None

    return Quantity(name=f"{comparison}, {view}, difference", unit=unit, of=of)


def words_figure(
    *,
    stem: str,
    title: str,
    headings: Mapping[str, str],
    groups: tuple[str, str],
    text: str,
    explained: str,
    claimed: Sequence[WordClaim],
    measurement: str,
    task: str = "english",
) -> WordsFigure:
    """The figure, and its claims for every system."""

    def claim(label: str, system: System, said: WordClaim) -> MeasuredClaim:
        if said.beside is not None:
            higher, lower = (_difference(name, said.view, said.unit) for name in (said.comparison, said.beside))
        else:
            higher, lower = (_mean(said.comparison, said.view, said.unit, side) for side in (0, 1))
        return MeasuredClaim(
            stem=stem,
            statement=f"{label}: {said.statement}",
            source=said.source,
            reading=system.reading,
            task=task,
            measurement=measurement,
            higher=Side(system=system.name, quantity=higher),
            lower=Side(system=system.name, quantity=lower),
        )

    return WordsFigure(
        stem=stem,
        title=title,
        task=task,
        systems=SYSTEMS,
        headings=headings,
        groups=groups,
        text=text,
        explained=(
            f"For words, the values are numbers of different experts that a word's {HEADS} sub-tokens go to, mean over "
            f"MoE layers: at most {HEADS}. {explained}"
        ),
        measurements=(measurement,),
        claims=[claim(label, system, said) for label, system in SYSTEMS.items() for said in claimed],
    )
