"""Zero-shot scores, by lm-eval's tasks.

answers: what the likelihoods of choices say. tasks: which, and their files. results: types of scores. harness:
lm-eval's side of tasks. prefix_trees: rows that begin alike. length_batched: lm-eval's model, faster. scoring: the
scores, and a command. scores: tables of several systems.
"""

READING_ORDER = (
    "answers",
    "tasks",
    "results",
    "harness",
    "prefix_trees",
    "length_batched",
    "scoring",
    "scores",
)
