"""The ledger: claims, the rule that judges them, and its page.

rules: claims about perplexity and cost, and the rule. measured: claims about measured values. judge: all of a page.
"""

READING_ORDER = (
    "learning_speed",
    "rules",
    "measured",
    "judge",
    "ledger",
)
