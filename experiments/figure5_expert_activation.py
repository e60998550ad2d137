"""Figure 5: which experts the questions of the English tasks go to.

Paper (v1, Figure 5, Section 5.1): with 32 experts, MH-MoE's heatmap is denser than X-MoE's, and denser with 8 heads
than with 4. Here with 8 experts, the models of Tables 1 and 5, and X-MoE with k = h beside them.
Cost beyond those tables: a quarter of a minute a model. Run: make figure5 SCALE=cpu
"""

from experiments.kinds.routing import ROUTING_ENGLISH, RoutingFigure, routing_claims
from experiments.layers import HEADS
from experiments.systems import OURS, mhmoe, xmoe
from experiments.testbed import TUNED
from experiments.tuning import tuned

MANY = 8
_PAPER = "v1 Section 5.1"

SYSTEMS = {
    "X-MoE, k = 1": xmoe(8),
    f"X-MoE, k = {HEADS}": xmoe(8, top_k=HEADS),
    f"MH-MoE, h = {HEADS}": mhmoe(8, "parameters"),
    f"MH-MoE, h = {HEADS}, equal FLOPs": mhmoe(8, "compute"),
    f"MH-MoE, h = {MANY}": mhmoe(8, "parameters", MANY, seeds=5),
    "X-MoE, tuned": TUNED.few,
    "MH-MoE, tuned": tuned("mhmoe_{}_parameters"),
    "MH-MoE, equal FLOPs, tuned": tuned("mhmoe_{}_compute"),
}

PAGE = RoutingFigure(
    slug="figure5_expert_activation",
    title="Figure 5 (English tasks): how often each expert is chosen",
    systems=SYSTEMS,
    text="English tasks",
    group="task",
    measurements=(ROUTING_ENGLISH,),
    notes=(
        "X-MoE with k = 8 of 8 experts would use all of them whatever its router does, so 8 heads have no control. "
        "Equal FLOPs means more and smaller experts, so shares of them are not those of 8.",
    ),
    claims=routing_claims(
        SYSTEMS,
        ROUTING_ENGLISH,
        "task",
        denser=(
            (f"MH-MoE, h = {HEADS}", "X-MoE, k = 1", _PAPER),
            (f"MH-MoE, h = {MANY}", f"MH-MoE, h = {HEADS}", _PAPER),
            (f"MH-MoE, h = {HEADS}", f"X-MoE, k = {HEADS}", OURS),
            ("MH-MoE, tuned", "X-MoE, tuned", _PAPER),
        ),
    ),
)
