"""v2, Table 4: what head and merge layers do to each model.

Paper (v2, Table 4), RedPajama, without and with: SMoE 11.87 and 11.84; fine-grained 11.68 and 11.67; MH-MoE (h = 2)
11.71 and 11.46. Around SMoE and fine-grained SMoE the layers come on top; in MH-MoE what they would cost goes into the
experts where they are left out. All rows are at the best point of MH-MoE, so that the layers alone differ.
Cost: cpu about an hour of one core. Run: make reproduce-v2-table4 SCALE=cpu
"""

from dataclasses import replace

from experiments.kinds.texts import TEXT_LOSSES, TextRow, TextsTable
from experiments.v2 import FINE, MHMOE, SMOE, TEXTS, above, at_point_of_mhmoe, mhmoe, where, with_layers

PAPER = "v2_table4_head_merge_layers"
BARE = replace(
    MHMOE[2],
    name="v2_mhmoe_h2_n0",
    label="MH-MoE, h = 2, without head and merge layers",
    layer=lambda scale, k: mhmoe(scale, k, 2, layers=0),
)
PAIRS = {
    "smoe": (at_point_of_mhmoe(SMOE), at_point_of_mhmoe(with_layers(SMOE))),
    "fine_grained": (at_point_of_mhmoe(FINE), at_point_of_mhmoe(with_layers(FINE))),
    "mhmoe_h2": (BARE, MHMOE[2]),
}


def _rows(name: str, *, tuned: bool) -> list[TextRow]:
    return [
        TextRow(system=model.tuned if tuned else model.published, paper=where(PAPER, name, which))
        for model, which in zip(PAIRS[name], ("without", "with"), strict=True)
    ]


ROWS, PRINTED = ([row for name in PAIRS for row in _rows(name, tuned=tuned)] for tuned in (True, False))

PAGE = TextsTable(
    slug="v2_table4_head_merge_layers",
    title="v2, Table 4: perplexity on three texts with and without head and merge layers",
    texts=TEXTS,
    rows=ROWS,
    as_printed=PRINTED,
    measurements=(TEXT_LOSSES,),
    claims=[
        claim
        for arm, tuned in (("tuned", True), ("published", False))
        for claim in above(*_rows("mhmoe_h2", tuned=tuned), arm=arm, table="v2 Table 4")
    ],
    notes=(
        "SMoE and fine-grained SMoE have MH-MoE's settings here, so that the layers alone differ; in Table 1 they have "
        "their own.",
        "That the layers do next to nothing for SMoE and fine-grained SMoE, as v2 says, is no claim that a test of "
        "differences could support; the rows show it, or not.",
        "v2 prints other numbers for the whole MH-MoE in its Tables 1, 4 and 5 (11.60, 11.46 and 11.60 on RedPajama "
        "after 50,000 steps), and does not say what differs.",
    ),
)
