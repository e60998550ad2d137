"""One file per table or figure: frozen data. `python -m experiments list` shows them.

generated_questions, generated_folder: data about generated texts, where no other are given. schema: what an
experiment is made of. scales: the four sizes. recipes: the systems. runs: records on disk, what is done, stale or
missing. manifest: the records' hashes. measurements: what is measured on finished models. texts: which text, and
whose results. execution: one run. running: training and measuring what is missing, shared by processes and jobs.
again: runs done once more beside their records. errata: where v1 contradicts itself. sizes: counts. looks: how
systems look in figures. finals, trends, the *_page files, pages, rendering: records into results/. index: what is in
results/. dry_run, outlook: what a command would cost, and take. validation: records from elsewhere. declared:
experiments by their names. run_command: what `run` does. table1, zero_shot, routing, words: systems and claims of
several pages.
"""

import time

BEGUN = time.monotonic()  # a time budget counts from here: the libraries take seconds to import
READING_ORDER = (
    "generated_questions",
    "generated_folder",
    "schema",
    "scales",
    "recipes",
    "runs",
    "manifest",
    "measurements",
    "texts",
    "outlook",
    "processes",
    "jobs",
    "again",
    "execution",
    "running",
    "errata",
    "sizes",
    "looks",
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
    "validation",
    "declared",
    "run_command",
    "table1",
    "zero_shot",
    "routing",
    "words",
    "learning_rates",
    "table1_perplexity",
    "figure4_training_curves",
    "figure6_scaling_experts",
)
