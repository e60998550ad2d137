"""v2, Table 5: MH-MoE (h = 2) with the head layer, the merge layer, both or none.

Paper (v2, Table 5), RedPajama: none 11.97, head 11.74, merge 11.84, both 11.60. What is left out is left out: the
experts stay as they are.
Cost: cpu about forty minutes of one core. Run: make reproduce-v2-table5 SCALE=cpu
"""

from dataclasses import replace

from experiments.kinds.texts import TEXT_LOSSES, TextRow, TextsTable
from experiments.v2 import MHMOE, TEXTS, Model, above, mhmoe, where

PRINTED_AT = ("v2_table5_head_or_merge", "rows")


def _model(name: str, label: str, head: int, merge: int) -> Model:
    return replace(
        MHMOE[2],
        name=f"v2_mhmoe_h2_{name}",
        label=f"MH-MoE, h = 2, {label}",
        layer=lambda scale, k: mhmoe(scale, k, 2).replace(head_layers=head, merge_layers=merge),
        matching="",  # what is left out is not made up for
    )


MODELS = (
    _model("neither", "neither layer", 0, 0),
    _model("head", "head layer alone", 1, 0),
    _model("merge", "merge layer alone", 0, 1),
    replace(MHMOE[2], matching=""),
)
ROWS = [TextRow(system=m.tuned, paper=where(*PRINTED_AT, i, offset=2)) for i, m in enumerate(MODELS)]
PRINTED = [TextRow(system=m.published, paper=where(*PRINTED_AT, i, offset=2)) for i, m in enumerate(MODELS)]

PAGE = TextsTable(
    slug="v2_table5_head_or_merge",
    title="v2, Table 5: perplexity on three texts with head layer, merge layer, both or none",
    texts=TEXTS,
    rows=ROWS,
    as_printed=PRINTED,
    measurements=(TEXT_LOSSES,),
    claims=[
        claim
        for arm, (neither, head, merge, both) in (("tuned", ROWS), ("published", PRINTED))
        for worse, better in ((neither, head), (neither, merge), (merge, head), (head, both), (neither, both))
        for claim in above(worse, better, arm=arm, table="v2 Table 5")
    ],
    notes=("What is left out is left out: a model without a layer has fewer FLOPs and parameters, by the layer's.",),
)
