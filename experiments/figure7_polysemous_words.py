"""Figure 7: do the sub-tokens of words of several senses go to more different experts?

Paper (v1, Section 5.2, Figure 7, h = 8): yes, for polysemous words and false cognates that GPT-4 found, compared
with all other words. Here words are counted by WordNet's senses and by lists of false friends, compared raw, as
the paper does, and in pairs matched by frequency, tokens, letters and part of speech; beside an untrained model.
Cost beyond Table 5: a minute a model. Run: make figure7 SCALE=cpu
"""

from analysis.measured_claims import MeasuredClaim, Quantity, Side, Values
from experiments.recipes import mhmoe
from experiments.schema import System, WordsFigure

STEM = "figure7_polysemous_words"
HEADS = 8
SYSTEMS: dict[str, System] = {
    f"MH-MoE, h = {HEADS}": mhmoe(8, "parameters", HEADS, seeds=3),
    f"MH-MoE, h = {HEADS}, equal FLOPs": mhmoe(8, "compute", HEADS, seeds=3),
}
_EXPERTS, _SHARE = "experts", "share of sub-tokens"
_PAPER, _MATCHED, _CONTEXT = "v1 Section 5.2", "ours: matched words", "ours: words in context"
# (compared, view, what the first group does more than the second, unit, source)
COMPARISONS = (
    ("senses", "raw", "words of three senses or more reach more experts than words of one", _EXPERTS, _PAPER),
    ("senses", "matched", "so they do beside matched words of one sense", _EXPERTS, _MATCHED),
    ("senses", "change_matched", "training adds more to them than to matched words of one", _EXPERTS, _MATCHED),
    ("false_friends", "raw", "false friends reach more experts than all other words", _EXPERTS, _PAPER),
    ("false_friends", "matched", "so they do beside matched other words", _EXPERTS, _MATCHED),
    ("contexts", "raw", "a word in two senses changes its experts more than one in one sense", _SHARE, _CONTEXT),
    ("contexts", "adjusted", "so it does with all else equal", _SHARE, _CONTEXT),
    ("contexts", "change_adjusted", "so it does beyond the untrained router, all else equal", _SHARE, _CONTEXT),
)


def _group(compared: str, view: str, side: int, unit: str) -> Quantity:
    """The mean of the first (0) or second (1) group."""

    def of(values: Values) -> float | None:
        means = values[compared][view].get("mean") if values else None
        return None if means is None else means[side]

    return Quantity(name=f"{compared}, {view}, group {side + 1}", unit=unit, of=of)


def _claims(label: str, system: System) -> list[MeasuredClaim]:
    return [
        MeasuredClaim(
            stem=STEM,
            statement=f"{label}: {statement}",
            source=source,
            reading=system.reading,
            measurement="word_senses",
            higher=Side(system=system.name, quantity=_group(compared, view, 0, unit)),
            lower=Side(system=system.name, quantity=_group(compared, view, 1, unit)),
        )
        for compared, view, statement, unit, source in COMPARISONS
    ]


EXPERIMENT = WordsFigure(
    stem=STEM,
    title="Figure 7: different experts of a word's sub-tokens",
    systems=SYSTEMS,
    measurements=("word_senses",),
    claims=[claim for label, system in SYSTEMS.items() for claim in _claims(label, system)],
)
