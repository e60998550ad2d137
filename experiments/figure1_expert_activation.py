"""Figure 1a: which experts the sentences of XNLI go to, 32 experts, multilingual models.

Paper (v1, Figure 1a): 8.33% of X-MoE's experts are active and 90.71% of MH-MoE's, above a threshold that is not
printed. The models are those of Table 1 (multilingual).
Cost beyond that table: a minute a model. Run: make figure1 SCALE=cpu
"""

from experiments.recipes import HEADS, mhmoe, xmoe
from experiments.routing import routing_figure

EXPERIMENT = routing_figure(
    stem="figure1_expert_activation",
    title="Figure 1a (XNLI): how often each expert is chosen",
    task="multilingual",
    systems={
        "X-MoE, k = 1": xmoe(32, seeds=3),
        f"MH-MoE, h = {HEADS}": mhmoe(32, "parameters", seeds=3),
        f"MH-MoE, h = {HEADS}, equal FLOPs": mhmoe(32, "compute", seeds=3),
    },
    denser=((f"MH-MoE, h = {HEADS}", "X-MoE, k = 1", "v1 Figure 1a"),),
    text="XNLI",
    group="language",
    measurement="routing_xnli",
    notes=("Equal FLOPs means more and smaller experts, so shares of them are not those of 32.",),
    printed={"X-MoE in the paper": 0.0833, "MH-MoE in the paper": 0.9071},
)
