"""Kinds of pages, one a file: its declaration, its systems, what it measures and how it is shown."""

READING_ORDER = (
    "sizes",
    "printed_sizes",
    "shares",
    "curves",
    "sweep",
    "sensitivity",
    "rounds",
    "search",
    "testbed",
    "waterfall",
    "score_table",
    "routing",
    "sparsity",
    "models",
    "words",
    "trend",
    "table",
    "comparison",
    "texts",
)
