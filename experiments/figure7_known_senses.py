"""Figure 7 on a text whose senses are known: the control that natural words cannot give.

The text is generated: an ambiguous word and a general one stand in as many topics and are as frequent, and only the
former has another sense in each. What a model that learned the senses does with such words, it does because of them.
Cost: 6 runs and their grid of rates; 25 minutes on two cores at cpu scale. Run: make figure7 TASK=generated SCALE=cpu
"""

from experiments.words import EXPERTS, PAPER, SHARE, Compared, words_figure

_MATCHED, _CONTEXT = "ours: matched words, senses known", "ours: words in context, senses known"
CLAIMED = (
    Compared("senses", "raw", "ambiguous words reach more experts than all other heads", EXPERTS, PAPER),
    Compared("senses", "matched", "so they do beside matched general words", EXPERTS, _MATCHED),
    Compared("senses", "change_matched", "training adds more to them than to matched general words", EXPERTS, _MATCHED),
    Compared("cognates", "raw", "false cognates reach more experts than true ones", EXPERTS, PAPER),
    Compared("cognates", "matched", "so they do beside matched true ones", EXPERTS, _MATCHED),
    Compared(
        "ambiguous_contexts", "raw", "an ambiguous word changes its experts with its sense", SHARE, _CONTEXT
    ),
    Compared(
        "ambiguous_contexts",
        "raw",
        "it does so more than a general word does with the topic",
        SHARE,
        _CONTEXT,
        beside="general_contexts",
    ),
)  # fmt: skip

EXPERIMENT = words_figure(
    stem="figure7_known_senses",
    title="Figure 7 on a generated text: different experts of a word's sub-tokens",
    task="generated",
    compared={
        "senses": "ambiguous words / all other heads",
        "cognates": "false cognates / true cognates",
        "ambiguous_contexts": "an ambiguous word in two senses / in one",
        "general_contexts": "a general word in two topics / in one",
    },
    groups=("several senses", "one sense"),
    text="the generated test text",
    claimed=CLAIMED,
    measurement="known_senses",
)
