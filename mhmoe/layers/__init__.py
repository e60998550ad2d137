"""The layers and their configs: routers, experts, the sparse mixture, and heads around it.

grouped: one matrix product a group. dispatch: rows to their experts and back. matching: sizes equal to X-MoE's.
exchange, expert_parallel, head_parallel: one layer on several processes.
"""

READING_ORDER = (
    "config",
    "routing",
    "routers",
    "switch_router",
    "gshard_router",
    "balanced_router",
    "biased_router",
    "grouped",
    "dispatch",
    "grouped_router",
    "activations",
    "bitnet",
    "experts",
    "losses",
    "balance",
    "capacity",
    "absent",
    "sparse_moe",
    "fine_grained",
    "dense_mixture",
    "hierarchical",
    "normed",
    "latent",
    "expert_choice",
    "per_head",
    "exchange",
    "expert_parallel",
    "head_parallel",
    "multi_head",
    "matching",
)
