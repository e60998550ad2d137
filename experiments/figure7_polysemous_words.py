"""Figure 7: do the sub-tokens of words of several senses go to more different experts?

Paper (v1, Section 5.2, Figure 7, h = 8): yes, for polysemous words and false cognates that GPT-4 found, compared
with all other words, in the text of XNLI. Here words are counted by WordNet's senses, many against one, and by
lists of false friends, against all others; compared raw, and in pairs matched by frequency, tokens, letters and part
of speech; beside an untrained model. The models and the text know English alone, where a false friend is a word like
others: Figure 7 on a generated text has false cognates of two languages that the model knows.
Cost beyond Table 5: two seeds more of two models, and a minute a model. Run: make figure7 SCALE=cpu
"""

from experiments.figure7 import SYSTEMS
from experiments.kinds.words import EXPERTS, PAPER, SHARE, WORD_SENSES, WordClaim, WordsFigure, word_claims

_MATCHED, _CONTEXT = "ours: matched words", "ours: words in context"
CLAIMED = (
    WordClaim("senses", "raw", "words of three senses or more reach more experts than words of one", EXPERTS, PAPER),
    WordClaim("senses", "matched", "so they do beside matched words of one sense", EXPERTS, _MATCHED),
    WordClaim(
        "false_friends", "raw", "English words with false friends reach more experts than all others", EXPERTS, PAPER
    ),
    WordClaim("false_friends", "matched", "so they do beside matched other words", EXPERTS, _MATCHED),
    WordClaim("contexts", "adjusted", "a word in two senses changes its experts more than in one", SHARE, _CONTEXT),
)

PAGE = WordsFigure(
    slug="figure7_polysemous_words",
    title="Figure 7: different experts of a word's sub-tokens",
    systems=SYSTEMS,
    headings={
        "senses": "three senses or more / one sense",
        "false_friends": "with false friends / all other words",
        "contexts": "one word in two senses / in one sense",
    },
    groups=("three senses or more", "one sense"),
    text="its test text",
    explained=(
        "False friends are another language's, which neither the models nor this text know: a word of theirs can only "
        "differ as words do. matched: pairs of words alike in frequency, number of tokens, letters and part of speech. "
        "In context: the "
        "share of a word's sub-tokens that go to another expert in the second sentence, its last token compared; "
        "same_form, beyond_others, adjusted: see analysis/routing/words/in_context.py."
    ),
    measurements=(WORD_SENSES,),
    claims=word_claims(SYSTEMS, WORD_SENSES, CLAIMED),
)
