"""v2, Table 1: Dense, SMoE, fine-grained SMoE and MH-MoE with 2 and 3 heads at equal FLOPs and parameters, SwiGLU.

Paper (v2, Table 1, 100,000 steps), RedPajama: 12.13, 10.90, 10.74, 10.70, 10.51; likewise Wikipedia and C4. Here books
and Wikipedia, of whose corpora the training text is, and text of the web, of which nothing was trained on.
Cost: cpu about an hour of one core. Run: make reproduce-v2-table1 SCALE=cpu
"""

from experiments.kinds.texts import TEXT_LOSSES, TextRow, TextsTable
from experiments.v2 import AS_PRINTED, MHMOE, MODELS, TEXTS, chain, where

SLUG = "v2_table1_perplexity"
PAPER = ("v2_table1_no_shared_expert", "100000")
NAMES = ("dense", "smoe", "fine_grained", "mhmoe_h2", "mhmoe_h3")
ROWS = [TextRow(system=m.tuned, paper=where(*PAPER, name)) for m, name in zip(MODELS, NAMES, strict=True)]
PRINTED = [
    TextRow(system=m.published, paper=where(*PAPER, name))
    for m, name in zip((*MODELS[:3], *AS_PRINTED.values()), NAMES, strict=True)
]

PAGE = TextsTable(
    slug=SLUG,
    title="v2, Table 1: perplexity on three texts at equal FLOPs and parameters",
    texts=TEXTS,
    rows=ROWS,
    reference=ROWS[1].system.name,
    as_printed=[*PRINTED, *(TextRow(system=model.published) for model in MHMOE.values())],
    printed_reference=PRINTED[1].system.name,
    measurements=(TEXT_LOSSES,),
    claims=[
        *chain(SLUG, ROWS, arm="tuned", table="v2 Table 1"),
        *chain(SLUG, PRINTED, arm="published", table="v2 Table 1"),
    ],
    notes=(
        "As in all of the tuned arm, SMoE chooses 2 of 8 experts, where v2 chooses 1. "
        "The paper scale has v2's sizes as printed, and MH-MoE's as its equations solve them for SwiGLU beside them.",
    ),
)
