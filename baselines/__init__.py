"""One compared system a file: what it is, what its paper leaves open, and a function returning its config.

A baseline is a feed-forward config, not a model: transformer, loop, data order and seeds are shared.
"""

READING_ORDER = ("counting",)
