"""Figure 7: do the sub-tokens of words of several senses go to more different experts?

Paper (v1, Section 5.2, Figure 7, h = 8): yes, for polysemous words and false cognates that GPT-4 found, compared
with all other words. Here words are counted by WordNet's senses and by lists of false friends, compared raw, as
the paper does, and in pairs matched by frequency, tokens, letters and part of speech; beside an untrained model.
Cost beyond Table 5: a minute a model. Run: make figure7 SCALE=cpu
"""

from experiments.words import EXPERTS, PAPER, SHARE, Compared, words_figure

_MATCHED, _CONTEXT = "ours: matched words", "ours: words in context"
CLAIMED = (
    Compared("senses", "raw", "words of three senses or more reach more experts than words of one", EXPERTS, PAPER),
    Compared("senses", "matched", "so they do beside matched words of one sense", EXPERTS, _MATCHED),
    Compared("senses", "change_matched", "training adds more to them than to matched words of one", EXPERTS, _MATCHED),
    Compared("false_friends", "raw", "false friends reach more experts than all other words", EXPERTS, PAPER),
    Compared("false_friends", "matched", "so they do beside matched other words", EXPERTS, _MATCHED),
    Compared("contexts", "raw", "a word in two senses changes its experts more than one in one sense", SHARE, _CONTEXT),
    Compared("contexts", "adjusted", "so it does with all else equal", SHARE, _CONTEXT),
    Compared("contexts", "change_adjusted", "so it does beyond the untrained router, all else equal", SHARE, _CONTEXT),
)

EXPERIMENT = words_figure(
    stem="figure7_polysemous_words",
    title="Figure 7: different experts of a word's sub-tokens",
    compared={
        "senses": "three senses or more / one sense",
        "false_friends": "false friends / all other words",
        "contexts": "one word in two senses / in one sense",
    },
    groups=("three senses or more", "one sense"),
    text="its test text",
    claimed=CLAIMED,
    measurement="word_senses",
)
