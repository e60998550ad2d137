"""Table 3: zero-shot accuracy on XNLI in fourteen languages, of the multilingual models.

Paper (v1, Table 3), means: Dense 33.5; X-MoE 34.1 and 34.5; MH-MoE 34.7 and 35.3 with 8 and 32 experts. The
models are those of Table 1 (multilingual).
Cost beyond that table: cpu three to five minutes a model on one core. Run: make reproduce-table3 SCALE=cpu
"""

from analysis.zero_shot.scores import Score
from experiments.kinds.score_table import ZERO_SHOT_XNLI
from experiments.zero_shot import zero_shot_table
from mhmoe.data.multilingual import XNLI_LANGUAGES

PAGE = zero_shot_table(
    "multilingual",
    slug="table3_xnli_zero_shot",
    title="Table 3: zero-shot scores on XNLI in fourteen languages",
    where="on XNLI",
    source="v1 Table 3",
    printed="v1_table3_xnli_zero_shot",
    measurement=ZERO_SHOT_XNLI,
    scores=[Score(language, f"xnli_{language}") for language in XNLI_LANGUAGES],
)
