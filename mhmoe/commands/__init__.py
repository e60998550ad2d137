"""`python -m mhmoe`: own text, own models. A command a file; each has a function of the same name, for Python too.

presets, systems, options: what `train` is told. place: device and processes. plan: configs from all these. card: what
stands beside a model.
routed: a text with the experts of its tokens.
"""

READING_ORDER = (
    "presets",
    "systems",
    "options",
    "place",
    "plan",
    "card",
    "train",
    "score",
    "routed",
    "inspect",
    "match",
    "upcycle",
)
