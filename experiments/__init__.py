"""One file per table or figure: frozen data. `python -m experiments list` shows them.

schema: what an experiment is made of. recipes: the four scales, and the systems. runs: records on disk, what
is done, stale or missing. measurements: what is measured on finished models. running: training and measuring
what is missing. errata: where v1 contradicts itself. sizes: counts. rendering: records into results/. index:
what is in results/. dry_run: what a command would cost.
"""

READING_ORDER = (
    "schema",
    "recipes",
    "runs",
    "measurements",
    "running",
    "errata",
    "sizes",
    "rendering",
    "index",
    "dry_run",
    "learning_rates",
    "table1_perplexity",
    "figure4_training_curves",
)
