"""Figure 1a: which experts the sentences of XNLI go to, 32 experts, multilingual models.

Paper (v1, Figure 1a): 8.33% of X-MoE's experts are active and 90.71% of MH-MoE's, above a threshold that is not
printed. The models are those of Table 1 (multilingual), and X-MoE with k = h, because MH-MoE's sub-tokens choose h
experts, at the learning rate of X-MoE with 8 experts and k = h. Eight heads: Figure 5.
Cost beyond that table: 3 runs, 10 minutes on two cores, and a minute a model. Run: make figure1 SCALE=cpu
"""

from experiments.changed_systems import with_lr_of
from experiments.kinds.routing import ROUTING_XNLI, RoutingFigure, routing_claims
from experiments.layers import HEADS
from experiments.systems import OURS, mhmoe, xmoe
from experiments.table1 import OF_32
from experiments.tuning import tuned

SYSTEMS = {
    "X-MoE, k = 1": xmoe(32, seeds=3),
    f"X-MoE, k = {HEADS}": with_lr_of(xmoe(32, top_k=HEADS), xmoe(8, top_k=HEADS), seeds=3),
    f"MH-MoE, h = {HEADS}": mhmoe(32, "parameters", seeds=3),
    f"MH-MoE, h = {HEADS}, equal FLOPs": mhmoe(32, "compute", seeds=3),
    "X-MoE, tuned": tuned("xmoe_{}", 32, seeds=3),
    "MH-MoE, tuned": OF_32[1],
    "MH-MoE, equal FLOPs, tuned": OF_32[0],
}

PAGE = RoutingFigure(
    slug="figure1_expert_activation",
    title="Figure 1a (XNLI): how often each expert is chosen",
    task="multilingual",
    systems=SYSTEMS,
    text="XNLI",
    group="language",
    measurements=(ROUTING_XNLI,),
    notes=(
        f"X-MoE with k = {HEADS} has the learning rate of 8 experts with k = {HEADS}. Eight heads: Figure 5.",
        "Equal FLOPs means more and smaller experts, so shares of them are not those of 32.",
    ),
    printed={"X-MoE in the paper": 0.0833, "MH-MoE in the paper": 0.9071},
    claims=routing_claims(
        SYSTEMS,
        ROUTING_XNLI,
        "language",
        denser=(
            (f"MH-MoE, h = {HEADS}", "X-MoE, k = 1", "v1 Figure 1a"),
            (f"MH-MoE, h = {HEADS}", f"X-MoE, k = {HEADS}", OURS),
            ("MH-MoE, tuned", "X-MoE, tuned", "v1 Figure 1a"),
        ),
        telling=((f"X-MoE, k = {HEADS}", f"MH-MoE, h = {HEADS}", OURS),),
    ),
)
