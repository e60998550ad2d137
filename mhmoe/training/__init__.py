"""A run: its config, loop, checkpoints and record.

objective: the loss of a global batch. allocator: memory.
"""

READING_ORDER = (
    "config",
    "record_checks",
    "record",
    "evaluation",
    "allocator",
    "checkpoint",
    "objective",
    "loop",
)
