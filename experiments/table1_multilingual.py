"""Table 1 (multilingual): the same systems, trained on fourteen languages.

Paper (v1, Table 1): Dense 8.56; X-MoE 7.19 and 6.02; MH-MoE 6.26 and 5.09, on Wikipedia in the languages of
XNLI without Arabic. Here languages are mixed by XLM's smoothed sampling with alpha = 0.7, and the text that
was translated by machine is left out (mhmoe/multilingual.py).
Cost: cpu about an hour and a half on two cores. Run: make reproduce-table1 TASK=multilingual SCALE=cpu
"""

from experiments.table1 import table1

EXPERIMENT = table1(
    "multilingual",
    stem="table1_multilingual",
    title="Table 1 (multilingual): test perplexity",
    where=" in fourteen languages",
    notes=(
        "Languages: bg, de, el, en, es, fr, hi, ru, sw, th, tr, ur, vi, zh; the test text has the same number of "
        "characters of each. Perplexity compares systems on one language and not languages with each other, whose "
        "tokens differ in length.",
    ),
)
