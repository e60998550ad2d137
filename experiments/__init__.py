"""One file per table or figure: frozen data. `python -m experiments list` shows them.

schema: what an experiment is made of. scales: the four sizes. recipes: the systems. runs: records on disk, what
is done, stale or missing. measurements: what is measured on finished models. running: training and measuring
what is missing. errata: where v1 contradicts itself. sizes: counts. finals, trends, the *_page files, pages,
rendering: records into results/. index: what is in results/. dry_run: what a command would cost. table1, zero_shot,
routing, words: systems and claims of several pages.
"""

import time

BEGUN = time.monotonic()  # a time budget counts from here: the libraries take seconds to import
READING_ORDER = (
    "schema",
    "scales",
    "recipes",
    "runs",
    "measurements",
    "processes",
    "running",
    "errata",
    "sizes",
    "finals",
    "trends",
    "score_page",
    "table_page",
    "routing_page",
    "words_page",
    "pages",
    "rendering",
    "index",
    "dry_run",
    "table1",
    "zero_shot",
    "routing",
    "words",
    "learning_rates",
    "table1_perplexity",
    "figure4_training_curves",
    "figure6_scaling_experts",
)
