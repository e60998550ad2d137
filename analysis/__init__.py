"""Measures models and records. Never trains, and knows no system by name: it takes them as arguments.

results: what every measurement says. statistics: intervals and corrections. tables, plotting: what pages and figures
share; figures: curves, trends and categories; waterfall: step by step; ranking: many systems and what they cost.
perplexity, languages: rows of perplexity, of a whole text and language by language. claims: the ledger. routing:
which experts a text and its words go to. sparsity: of dense networks. weights: which a model has. experts_alike: how
alike the experts of a layer are. texts: perplexity on other texts. speed: training and generation. zero_shot: scores
of lm-eval's tasks. visual_questions: answers of models of masked images and text.
"""

READING_ORDER = (
    "results",
    "statistics",
    "tables",
    "plotting",
    "figures",
    "waterfall",
    "ranking",
    "perplexity",
    "languages",
    "claims",
    "routing",
    "sparsity",
    "weights",
    "experts_alike",
    "texts",
    "speed",
    "zero_shot",
    "visual_questions",
)
