"""Compare systems: every system of the field and MH-MoE at equal FLOPs a token, in one frame.

One transformer, one loop, one text, mixtures in every second block: the layers alone differ (field.py). FLOPs a token
are those of X-MoE with 8 experts and k = 2, by the inner width; parameters too, where the system allows. Null, Dense,
X-MoE, the fine-grained X-MoE and MH-MoE are at the best points that the search found for each; all others take X-MoE's
settings but for the gate, which is a part of what they are, and Multi-Head LatentMoE takes MH-MoE's.
No table of the papers. Cost: cpu about three hours of one core beyond Table 1. Run: make compare-systems SCALE=cpu
"""

from experiments.claims import lower
from experiments.field import FAMILIES, WITH_SWIGLU, XMOE_SWIGLU, headed, multi_head_latent, system
from experiments.kinds.comparison import MEASURES, Comparison
from experiments.kinds.table import Row
from experiments.systems import OURS
from experiments.testbed import RAISED_AT, TUNED
from experiments.tuning import tuned

MHMOE = tuned("mhmoe_{}_compute")
GATED = headed(XMOE_SWIGLU)  # MH-MoE with SwiGLU
WITHOUT = (TUNED.dense, *(system(family) for family in FAMILIES if family not in WITH_SWIGLU), multi_head_latent())
WITH = [system(family) for family in WITH_SWIGLU]
SHOWN = (TUNED.null, TUNED.few, tuned("fine_{}"), *WITHOUT, MHMOE, system(XMOE_SWIGLU), *WITH, GATED)

PAGE = Comparison(
    slug="compare_systems",
    title="Systems of the field at equal FLOPs: test perplexity and what they cost",
    rows=[Row(system=each) for each in SHOWN],
    reference=TUNED.few.name,
    measures=MEASURES,
    measurements=tuple({measure.measurement.name: measure.measurement for measure in MEASURES}.values()),
    stressed=(TUNED.few.name, MHMOE.name, GATED.name),
    claims=[
        lower(
            f"{name} has lower perplexity than {other.label.partition(',')[0]}, at equal FLOPs",
            OURS,
            ours,
            other,
            raised_at=RAISED_AT if other is TUNED.dense else (),
        )
        for name, ours, others in (("MH-MoE", MHMOE, WITHOUT), ("MH-MoE with SwiGLU", GATED, WITH))
        for other in others
    ],
    notes=(
        "Settings of null, Dense, X-MoE, fine-grained X-MoE and MH-MoE are the best of the same search for each. The "
        "other systems were not searched: they take X-MoE's (rates, norms, initial output), but keep their own gate; "
        "Multi-Head LatentMoE takes MH-MoE's. So a system that lies behind may lack settings of its own.",
        "FLOPs are equal within a step of the inner width; those of MH-MoE are v2's, which leave its routers out. "
        "Jamba's 16 experts give its mixture twice the parameters of X-MoE's, and the densely gated one has a quarter, "
        "as it uses all that it has.",
        "Mixtral, DeepSeekMoE and Jamba have SwiGLU experts and Grok-1 a gated GELU, as published, the others GELU: "
        "what the activation alone is worth is the distance of the two X-MoE. (The two MH-MoE also differ in how many "
        "experts a sub-token chooses: X-MoE with SwiGLU and heads keeps X-MoE's k.) Where the settings "
        "have a norm behind the layer, it takes the scale of the gates away, and Mixtral and Grok-1 differ by their "
        "activation alone.",
    ),
)
