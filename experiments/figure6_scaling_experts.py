"""Figure 6: perplexity and HellaSwag from 8 to 256 experts.

Paper (v1, Section 5.1, Figure 6): both improve with more experts; X-MoE's accuracy on HellaSwag saturates at 64
experts and MH-MoE's does not. Here HellaSwag is read in bits per byte of the right ending, which moves where
accuracy is near chance; and what the experts cost in memory and speed stands beside it.
Three seeds to 32 experts and two above, at the learning rate of 32: a grid of their own could not be afforded.
Cost: cpu about an hour beyond Table 1 on two cores, and three minutes a model for HellaSwag.
Run: make figure6 SCALE=cpu
"""

from analysis.claims import Claim
from analysis.measured_claims import MeasuredClaim, Quantity, Side, Values
from experiments.recipes import as_tuned, mhmoe, xmoe
from experiments.schema import Row, System, Table, Trend
from mhmoe.matching import Reading

STEM = "figure6_scaling_experts"
EXPERTS = (8, 16, 32, 64, 128, 256)
TUNED = 32  # the most experts that have a grid of learning rates of their own
SOURCE, OURS = "v1 Section 5.1", "ours, for v1's Figure 6"


def _xmoe(experts: int) -> System:
    return xmoe(experts, seeds=3) if experts <= TUNED else as_tuned(xmoe(experts), xmoe(TUNED), seeds=2)


def _mhmoe(experts: int, reading: Reading) -> System:
    system = mhmoe(experts, reading, seeds=3)
    return system if experts <= TUNED else as_tuned(system, mhmoe(TUNED, reading), seeds=2)


SERIES: dict[str, list[tuple[float, System]]] = {
    "X-MoE": [(n, _xmoe(n)) for n in EXPERTS],
    "MH-MoE, equal parameters": [(n, _mhmoe(n, "parameters")) for n in EXPERTS],
    "MH-MoE, equal FLOPs": [(n, _mhmoe(n, "compute")) for n in EXPERTS],
}


def _hellaswag(values: Values) -> float | None:
    return values["tasks"]["hellaswag"]["bits_per_byte"]["value"] if values else None


BITS = Quantity(name="HellaSwag", unit="bits per byte", of=_hellaswag)


def _claims(label: str, series: list[tuple[float, System]]) -> list[Claim | MeasuredClaim]:
    of = dict(series)
    lower = [
        Claim(
            stem=STEM,
            statement=f"{label} with {more} experts has lower perplexity than with {fewer}",
            source=SOURCE,
            better=of[more].name,
            worse=of[fewer].name,
        )
        for fewer, more in ((8, 32), (32, 64), (64, 256))
    ]
    improves = MeasuredClaim(
        stem=STEM,
        statement=f"{label} spends more bits per byte on HellaSwag's right endings with 64 experts than with 256",
        source=SOURCE if label.startswith("MH") else f"the contrary of {SOURCE}: X-MoE saturates",
        measurement="zero_shot_hellaswag",
        higher=Side(system=of[64].name, quantity=BITS),
        lower=Side(system=of[256].name, quantity=BITS),
    )
    return [*lower, improves]


EXPERIMENT = Table(
    stem=STEM,
    title="Figure 6: from 8 to 256 experts",
    rows=[Row(system=system) for series in SERIES.values() for _, system in series],
    reference="xmoe_8",
    trend=Trend(
        x_label="experts", series=SERIES, panels=("perplexity", "hellaswag", "activation", "memory"), log_x=True
    ),
    measurements=("zero_shot_hellaswag", "expert_activation"),
    claims=[claim for label, series in SERIES.items() for claim in _claims(label, series)],
    notes=("Models with 64 experts and more take the learning rate of those with 32.",),
)
