"""Kinds of pages, one a file: its declaration, its systems, what it measures and how it is shown."""

READING_ORDER = (
    "sizes",
    "printed_sizes",
    "curves",
    "sweep",
    "sensitivity",
    "search",
    "testbed",
    "waterfall",
    "score_table",
    "routing",
    "words",
    "trend",
    "table",
    "comparison",
    "texts",
)
