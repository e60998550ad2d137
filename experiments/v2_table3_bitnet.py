"""v2, Table 3: the models of Table 1 in BitNet b1.58: ternary weights and 8 bits in every block.

Paper (v2, Table 3, 100,000 steps), RedPajama: 30.04, 26.78, 26.68, 26.59, 26.47.
Claims rest on the testbed of such models (testbed_bitnet.py).
Cost: cpu about an hour and a half of one core. Run: make reproduce-v2-table3 SCALE=cpu
"""

from experiments.kinds.texts import TEXT_LOSSES, TextRow, TextsTable
from experiments.v2 import AS_PRINTED, MHMOE, MODELS, TEXTS, chain, in_bitnet, where

SLUG = "v2_table3_bitnet"
PAPER = ("v2_table3_bitnet", "100000")
NAMES = ("dense", "smoe", "fine_grained", "mhmoe_h2", "mhmoe_h3")
ROWS = [TextRow(system=in_bitnet(m).tuned, paper=where(*PAPER, name)) for m, name in zip(MODELS, NAMES, strict=True)]
PRINTED = [
    TextRow(system=in_bitnet(m).published, paper=where(*PAPER, name))
    for m, name in zip((*MODELS[:3], *AS_PRINTED.values()), NAMES, strict=True)
]

PAGE = TextsTable(
    slug=SLUG,
    title="v2, Table 3: perplexity on three texts in BitNet b1.58",
    texts=TEXTS,
    rows=ROWS,
    reference=ROWS[1].system.name,
    as_printed=[*PRINTED, *(TextRow(system=in_bitnet(m).published) for m in MHMOE.values())],
    printed_reference=PRINTED[1].system.name,
    measurements=(TEXT_LOSSES,),
    claims=chain(SLUG, ROWS, arm="bitnet", table="v2 Table 3"),
    notes=("Settings are those that the search found in full precision.",),
)
