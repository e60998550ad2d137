"""Multi-Head Mixture-of-Experts: the layer, its relatives, and a language model made of them.

Reading order: the files in READING_ORDER, each importing only from those before it.

Glossary (paper symbol | name here | axis in shapes):

    l        | tokens                 | batch length, or tokens
    d        | dim (`hidden_size` in the model's config) | dim
    h        | heads, `moe_heads`     | heads       (of the MoE layer, not of attention)
    d/h      | width of a sub-token   | head_dim
    N        | num_experts            | experts
    k        | top_k                  | top_k
    e_p      | expert_embeddings      | experts, router_dim
    g(f_p)   | Routing.weight, .probabilities |
    4 beta d | expert_dim             | inner       (solved in matching.py)
    alpha    | balance_weight         |
"""

from mhmoe.base_model import MHMoEModel
from mhmoe.configs import Config, config_from_dict
from mhmoe.configuration import MHMoEConfig
from mhmoe.experts import Experts, ExpertsConfig, FeedForward, FeedForwardConfig, FFNOutput
from mhmoe.hidden_only import HiddenOnly
from mhmoe.language_model import MHMoEForCausalLM
from mhmoe.losses import balance_loss
from mhmoe.matching import match
from mhmoe.multi_head import MultiHead, MultiHeadConfig, MultiHeadMoE, multi_head_moe
from mhmoe.routers import (
    DotProductRouterConfig,
    FixedTemperatureRouterConfig,
    ReleasedRouterConfig,
    Routing,
    XMoERouterConfig,
)
from mhmoe.sparse_moe import ResidualConfig, SparseMoE, SparseMoEConfig

READING_ORDER = (
    "fields",
    "files",
    "configs",
    "routers",
    "grouped",
    "dispatch",
    "experts",
    "losses",
    "sparse_moe",
    "multi_head",
    "matching",
    "hidden_only",
    "configuration",
    "training_config",
    "transformer",
    "record_checks",
    "records",
    "command_line",
    "display",
    "earlier_folders",
    "outputs",
    "base_model",
    "language_model",
    "data_folder",
    "corpora",
    "generated",
    "tokenization",
    "multilingual",
    "partly_generated",
    "batches",
    "packing",
    "evaluation",
    "memory",
    "progress",
    "objective",
    "training",
)

__version__ = "0.1.0"
__all__ = [
    "READING_ORDER",
    "Config",
    "DotProductRouterConfig",
    "Experts",
    "ExpertsConfig",
    "FFNOutput",
    "FeedForward",
    "FeedForwardConfig",
    "FixedTemperatureRouterConfig",
    "HiddenOnly",
    "MHMoEConfig",
    "MHMoEForCausalLM",
    "MHMoEModel",
    "MultiHead",
    "MultiHeadConfig",
    "MultiHeadMoE",
    "ReleasedRouterConfig",
    "ResidualConfig",
    "Routing",
    "SparseMoE",
    "SparseMoEConfig",
    "XMoERouterConfig",
    "balance_loss",
    "config_from_dict",
    "match",
    "multi_head_moe",
]
