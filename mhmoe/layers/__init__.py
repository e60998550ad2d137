"""The layers and their configs: routers, experts, the sparse mixture, and heads around it.

grouped: one matrix product a group. dispatch: rows to their experts and back. matching: sizes equal to X-MoE's.
"""

READING_ORDER = (
    "config",
    "routers",
    "grouped",
    "dispatch",
    "bitnet",
    "experts",
    "losses",
    "absent",
    "sparse_moe",
    "fine_grained",
    "dense_mixture",
    "hierarchical",
    "normed",
    "latent",
    "per_head",
    "multi_head",
    "matching",
)
