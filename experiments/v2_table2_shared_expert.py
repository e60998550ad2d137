"""v2, Table 2: the mixtures of Table 1 with a shared expert, as wide as the network of the other blocks.

Paper (v2, Table 2, 100,000 steps), RedPajama: SMoE 10.66, fine-grained 10.41, MH-MoE 10.36 and 10.28 (h = 2, 3).
v2 does not say whether the shared expert of MH-MoE sees tokens or sub-tokens; here it stands beside the experts, inside
the heads, with the same FLOPs a token and 1/h of the parameters.
Cost: cpu about an hour of one core. Run: make reproduce-v2-table2 SCALE=cpu
"""

from experiments.kinds.texts import TEXT_LOSSES, TextRow, TextsTable
from experiments.v2 import AS_PRINTED, FINE, MHMOE, SMOE, TEXTS, chain, where, with_shared

SLUG = "v2_table2_shared_expert"
PAPER = ("v2_table2_shared_expert", "100000")
NAMES = ("smoe", "fine_grained", "mhmoe_h2", "mhmoe_h3")
ROWS = [
    TextRow(system=with_shared(m).tuned, paper=where(*PAPER, name))
    for m, name in zip((SMOE, FINE, *MHMOE.values()), NAMES, strict=True)
]
PRINTED = [
    TextRow(system=with_shared(m).published, paper=where(*PAPER, name))
    for m, name in zip((SMOE, FINE, *AS_PRINTED.values()), NAMES, strict=True)
]

PAGE = TextsTable(
    slug=SLUG,
    title="v2, Table 2: perplexity on three texts with a shared expert",
    texts=TEXTS,
    rows=ROWS,
    reference=ROWS[0].system.name,
    as_printed=[*PRINTED, *(TextRow(system=with_shared(m).published) for m in MHMOE.values())],
    printed_reference=PRINTED[0].system.name,
    measurements=(TEXT_LOSSES,),
    claims=[
        *chain(SLUG, ROWS, arm="tuned", table="v2 Table 2"),
        *chain(SLUG, PRINTED, arm="published", table="v2 Table 2"),
    ],
    notes=("The shared expert of MH-MoE sees sub-tokens, which v2 leaves open.",),
)
