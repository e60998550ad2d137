"""v2, Table 2: the mixtures of Table 1 with a shared expert, as wide as the network of the other blocks.

Paper (v2, Table 2, 100,000 steps), RedPajama: SMoE 10.66, fine-grained 10.41, MH-MoE 10.36 and 10.28 (h = 2, 3).
v2 does not say whether the shared expert of MH-MoE sees tokens or sub-tokens; here it stands beside the experts, inside
the heads, with the same FLOPs a token and 1/h of the parameters.
Cost: cpu about an hour of one core. Run: make reproduce-v2-table2 SCALE=cpu
"""

from experiments.v2 import table_of_models, with_shared

PAGE = table_of_models(
    slug="v2_table2_shared_expert",
    title="v2, Table 2: perplexity on three texts with a shared expert",
    paper="v2_table2_shared_expert",
    source="v2 Table 2",
    change=with_shared,
    notes=("The shared expert of MH-MoE sees sub-tokens, which v2 leaves open.",),
)
