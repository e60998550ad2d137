"""One file per table or figure: frozen data. `python -m experiments list` shows them.

schema: what an experiment is made of. recipes: the four scales, and the systems. runs: records on disk,
what is done, stale or missing. running: training what is missing. sizes: counts. rendering: records into results/. dry_run: what it would cost.
"""

READING_ORDER = (
    "schema",
    "recipes",
    "runs",
    "running",
    "sizes",
    "rendering",
    "dry_run",
    "learning_rates",
    "table1_perplexity",
    "figure4_training_curves",
)
