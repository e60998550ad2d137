"""The ledger: claims, the rule that judges them, and its page.

rules: claims about perplexity and cost, and the rule. measured: claims about measured values. controls: what a
scale can show. judge: all of a page.
"""

READING_ORDER = (
    "learning_speed",
    "rules",
    "measured",
    "controls",
    "judge",
    "ledger",
)
