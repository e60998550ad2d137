"""v2, Table 3: the models of Table 1 in BitNet b1.58: ternary weights and 8 bits in every block.

Paper (v2, Table 3, 100,000 steps), RedPajama: 30.04, 26.78, 26.68, 26.59, 26.47.
Claims rest on the testbed of such models (testbed_bitnet.py).
Cost: cpu about an hour and a half of one core. Run: make reproduce-v2-table3 SCALE=cpu
"""

from experiments.v2 import in_bitnet, table_of_models

PAGE = table_of_models(
    slug="v2_table3_bitnet",
    title="v2, Table 3: perplexity on three texts in BitNet b1.58",
    paper="v2_table3_bitnet",
    source="v2 Table 3",
    change=in_bitnet,
    arms=("bitnet",),
    notes=(
        "Settings are those that the search found in full precision.",
        "Head and merge layers are ternary too: v2 says that all models are quantised. In the code that its authors "
        "released these two stay in full precision.",
    ),
)
