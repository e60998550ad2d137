"""v2, Table 1: Dense, SMoE, fine-grained SMoE and MH-MoE with 2 and 3 heads at equal FLOPs and parameters, SwiGLU.

Paper (v2, Table 1, 100,000 steps), RedPajama: 12.13, 10.90, 10.74, 10.70, 10.51; likewise Wikipedia and C4. Here books
and Wikipedia, of whose corpora the training text is, and text of the web, of which nothing was trained on.
Cost: cpu about an hour of one core. Run: make reproduce-v2-table1 SCALE=cpu
"""

from experiments.v2 import table_of_models

PAGE = table_of_models(
    slug="v2_table1_perplexity",
    title="v2, Table 1: perplexity on three texts at equal FLOPs and parameters",
    paper="v2_table1_no_shared_expert",
    source="v2 Table 1",
    notes=(
        "As in all of the tuned arm, SMoE chooses 2 of 8 experts, where v2 chooses 1. "
        "The paper scale has v2's sizes as printed, and MH-MoE's as its equations solve them for SwiGLU beside them.",
    ),
)
