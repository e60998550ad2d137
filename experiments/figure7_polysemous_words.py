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
_EXPERTS, _SHARE = "experts", "of the sub-tokens"
# (compared, view, first group, second group, unit, source)
COMPARISONS = (
    ("senses", "raw", "words of three senses or more", "words of one sense", _EXPERTS, "v1 Section 5.2"),
    ("senses", "matched", "words of three senses or more", "matched words of one sense", _EXPERTS, "ours: matched"),
    ("false_friends", "raw", "false friends", "all other words", _EXPERTS, "v1 Section 5.2"),
    ("false_friends", "matched", "false friends", "matched other words", _EXPERTS, "ours: matched"),
    ("contexts", "raw", "one word in two senses", "one word in one sense", _SHARE, "ours: words in context"),
    ("contexts", "adjusted", "one word in two senses", "in one, all else equal", _SHARE, "ours: words in context"),
)


def _group(compared: str, view: str, side: int, name: str, unit: str) -> Quantity:
    """The mean of the first (0) or second (1) group."""

    def of(values: Values) -> float | None:
        means = values[compared][view].get("mean") if values else None
        return None if means is None else means[side]

    return Quantity(name=name, unit=unit, of=of)


def _claims(label: str, system: System) -> list[MeasuredClaim]:
    return [
        MeasuredClaim(
            stem=STEM,
            statement=f"{label}: {first} go to more different experts than {second}",
            source=source,
            measurement="word_senses",
            higher=Side(system=system.name, quantity=_group(compared, view, 0, first, unit)),
            lower=Side(system=system.name, quantity=_group(compared, view, 1, second, unit)),
        )
        for compared, view, first, second, unit, source in COMPARISONS
    ]


EXPERIMENT = WordsFigure(
    stem=STEM,
    title="Figure 7: different experts of a word's sub-tokens",
    systems=SYSTEMS,
    measurements=("word_senses",),
    claims=[claim for label, system in SYSTEMS.items() for claim in _claims(label, system)],
)
