"""The layers and their configs: routers, experts, the sparse mixture, and heads around it.

card: what a graphics card wants otherwise. grouped: one matrix product a group. dispatch: rows to their experts and
back; few_rows: the same in generation. slices: experts in parts. triton_kernels, fused: both and the activation in few
passes, on a card. matching: sizes equal to X-MoE's. exchange, expert_parallel, head_parallel: one layer on several
processes.
"""

READING_ORDER = (
    "config",
    "card",
    "triton_activations",
    "triton_kernels",
    "grouped_on_card",
    "grouped",
    "routing",
    "routers",
    "switch_router",
    "gshard_router",
    "balanced_router",
    "biased_router",
    "dispatch",
    "grouped_router",
    "activations",
    "few_rows",
    "fused",
    "bitnet",
    "slices",
    "stacked_norms",
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
    "beside",
    "latent",
    "expert_choice",
    "per_head",
    "exchange",
    "expert_parallel",
    "head_parallel",
    "multi_head",
    "matching",
)
