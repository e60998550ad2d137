"""Which experts words go to.

sub_tokens: words and their tokens. polysemy: which words have several senses. comparison: two groups of words; figure:
their figure. in_context: one word in two senses. senses: all of these of one model; known_senses: the same on a
generated text. rows: tables. word_list: a command for any list of words.
"""

READING_ORDER = (
    "comparison",
    "figure",
    "sub_tokens",
    "polysemy",
    "in_context",
    "senses",
    "known_senses",
    "rows",
    "word_list",
)
