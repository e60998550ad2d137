"""Table 2: zero-shot scores on nine English tasks.

Paper (v1, Table 2), means of its fourteen numbers: Dense 37.2; X-MoE 38.7 and 39.1; MH-MoE 39.8 and 40.6 with 8
and 32 experts. The models are those of Table 1.
Cost beyond Table 1: cpu three to five minutes a model on one core. Run: make reproduce-table2 SCALE=cpu
"""

from analysis.zero_shot.scores import Score
from experiments.kinds.score_table import ZERO_SHOT_ENGLISH
from experiments.zero_shot import zero_shot_table

PAGE = zero_shot_table(
    "english",
    slug="table2_english_zero_shot",
    title="Table 2: zero-shot scores on nine English tasks",
    where="on nine English tasks",
    source="v1 Table 2",
    printed="v1_table2_english_zero_shot",
    measurement=ZERO_SHOT_ENGLISH,
    scores=(
        Score("ARC-challenge", "arc_challenge"),
        Score("ARC-challenge, normalised", "arc_challenge", "acc_norm"),
        Score("ARC-easy", "arc_easy"),
        Score("ARC-easy, normalised", "arc_easy", "acc_norm"),
        Score("RTE", "rte"),
        Score("OpenBookQA", "openbookqa"),
        Score("OpenBookQA, normalised", "openbookqa", "acc_norm"),
        Score("Winogrande", "winogrande"),
        Score("PIQA", "piqa"),
        Score("BoolQ", "boolq"),
        Score("HellaSwag", "hellaswag"),
        Score("HellaSwag, normalised", "hellaswag", "acc_norm"),
        Score("TruthfulQA, mc1", "truthfulqa_mc1"),
        Score("TruthfulQA, mc2", "truthfulqa_mc2", counts=False),
    ),
)
