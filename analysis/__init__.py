"""Measures models and records. Never trains, and knows no system by name: it takes them as arguments.

results: what every measurement says. statistics: intervals and corrections. tables, plotting: what pages and figures
share; figures: curves, trends and categories; waterfall: step by step. perplexity, languages: rows of perplexity, of a
whole text and language by language. checkpoints: any causal model. claims: the ledger. routing: which experts a text
and its words go to. sparsity: of dense networks. zero_shot: scores of lm-eval's tasks.
"""

READING_ORDER = (
    "results",
    "statistics",
    "tables",
    "plotting",
    "figures",
    "waterfall",
    "perplexity",
    "languages",
    "checkpoints",
    "claims",
    "routing",
    "sparsity",
    "zero_shot",
)
