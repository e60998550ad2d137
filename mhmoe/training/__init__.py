"""A run: its config, loop, checkpoints and record.

objective: the loss of a global batch. replay: its gradients as a CUDA graph. allocator: memory. sharding: one model on
several processes. watch: what is told of a run while it trains. watchers: who writes it down.
"""

READING_ORDER = (
    "config",
    "record_checks",
    "record",
    "evaluation",
    "allocator",
    "seeding",
    "sharding",
    "optimizer",
    "checkpoint",
    "sharded_checkpoint",
    "objective",
    "replay",
    "watch",
    "watchers",
    "loop",
)
