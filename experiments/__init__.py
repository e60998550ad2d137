"""One file per table or figure: frozen data. `python -m experiments list` shows them.

stand_in: generated data where none are given. scales: the five sizes. paper: printed numbers. system, layers, systems,
changed_systems: what is compared. settings: what is searched. runner: runs and records. report: records into results/.
claims: what is said of two systems. kinds: the kinds of pages. catalog: pages by their names. learning_rates, tuning:
what is chosen. testbed: what can be shown. field, v2: the systems of the field, and of v2. table1, figure4, zero_shot:
systems and claims of several pages.
"""

import time

BEGUN = time.monotonic()  # a time budget counts from here: the libraries take seconds to import
READING_ORDER = (
    "stand_in",
    "scales",
    "paper",
    "system",
    "layers",
    "systems",
    "changed_systems",
    "settings",
    "runner",
    "report",
    "claims",
    "kinds",
    "catalog",
    "learning_rates",
    "tuning",
    "testbed",
    "field",
    "v2",
    "why",
    "table1",
    "zero_shot",
    "figure7",
    "table1_perplexity",
    "figure4",
    "figure4_training_curves",
    "figure6_scaling_experts",
)
