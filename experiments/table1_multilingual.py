"""Table 1 (multilingual): the same systems, trained on fourteen languages.

Paper (v1, Table 1): Dense 8.56; X-MoE 7.19 and 6.02; MH-MoE 6.26 and 5.09, on Wikipedia in the languages of
XNLI without Arabic.
Cost: cpu about an hour and a half on two cores. Run: make reproduce-table1 TASK=multilingual SCALE=cpu
"""

from experiments.table1 import table1
from mhmoe.data.multilingual import MultilingualCorpus

PAGE = table1(
    "multilingual",
    slug="table1_multilingual",
    title="Table 1 (multilingual): test perplexity",
    where=" in fourteen languages",
    notes=(
        f"Languages are mixed by XLM's smoothed sampling with alpha = {MultilingualCorpus.alpha:g}; left out is what "
        f"was translated by machine ({', '.join(MultilingualCorpus.excluded_sources)}), and kept are sources of "
        "single sentences. All languages share one vocabulary, made of this "
        "text. The test text has the same number of characters of each. Perplexity and bits per byte compare systems "
        "on one language and not languages with each other, whose texts, tokens and bytes a character differ.",
    ),
)
