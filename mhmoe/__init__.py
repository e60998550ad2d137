"""Multi-Head Mixture-of-Experts: the layer, its relatives, and a language model made of them.

Reading order: READING_ORDER, here and in each folder; a file imports only from those before it.

Glossary (paper symbol | name here | axis in shapes):

    l        | tokens                 | batch length, or tokens
    d        | dim (`hidden_size` in the model's config) | dim
    h        | heads, `moe_heads`     | heads       (of the MoE layer, not of attention)
    d/h      | width of a sub-token   | head_dim
    N        | num_experts            | experts
    k        | top_k                  | top_k
    e_p      | expert_embeddings      | experts, router_dim
    g(f_p)   | Routing.weight, .probabilities |
    4 beta d | expert_dim             | inner       (solved in layers/matching.py)
    alpha    | balance_weight         |
"""

from mhmoe.layers.absent import AbsentConfig
from mhmoe.layers.balanced_router import BalancedRouterConfig
from mhmoe.layers.beside import BesideConfig
from mhmoe.layers.biased_router import BiasedRouterConfig
from mhmoe.layers.config import Config, config_from_dict
from mhmoe.layers.dense_mixture import DenseMixtureConfig
from mhmoe.layers.expert_choice import ExpertChoice, ExpertChoiceConfig
from mhmoe.layers.experts import Experts, ExpertsConfig, FeedForward, FeedForwardConfig, FFNOutput
from mhmoe.layers.fine_grained import fine_grained
from mhmoe.layers.grouped_router import GroupedRouterConfig
from mhmoe.layers.gshard_router import GShardRouterConfig
from mhmoe.layers.hierarchical import HierarchicalMoEConfig
from mhmoe.layers.latent import LatentConfig, latent_moe
from mhmoe.layers.losses import balance_loss
from mhmoe.layers.matching import match
from mhmoe.layers.multi_head import MultiHead, MultiHeadConfig, MultiHeadMoE, multi_head_moe
from mhmoe.layers.normed import NormedConfig
from mhmoe.layers.per_head import PerHeadRouterConfig
from mhmoe.layers.routers import (
    DotProductRouterConfig,
    FixedTemperatureRouterConfig,
    ReleasedRouterConfig,
    Routing,
    XMoERouterConfig,
)
from mhmoe.layers.sparse_moe import ResidualConfig, SparseMoE, SparseMoEConfig
from mhmoe.layers.switch_router import SwitchRouterConfig
from mhmoe.model.base_model import MHMoEModel
from mhmoe.model.config import MHMoEConfig
from mhmoe.model.integrate import HiddenOnly, integrate, load_integrated
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.model.masked import MHMoEForMaskedLM
from mhmoe.model.upcycle import upcycle

READING_ORDER = (
    "fields",
    "from_json",
    "io",
    "cli",
    "display",
    "layers",
    "model",
    "data",
    "training",
    "commands",
)

__version__ = "0.1.0"
__all__ = [
    "READING_ORDER",
    "AbsentConfig",
    "BalancedRouterConfig",
    "BesideConfig",
    "BiasedRouterConfig",
    "Config",
    "DenseMixtureConfig",
    "DotProductRouterConfig",
    "ExpertChoice",
    "ExpertChoiceConfig",
    "Experts",
    "ExpertsConfig",
    "FFNOutput",
    "FeedForward",
    "FeedForwardConfig",
    "FixedTemperatureRouterConfig",
    "GShardRouterConfig",
    "GroupedRouterConfig",
    "HiddenOnly",
    "HierarchicalMoEConfig",
    "LatentConfig",
    "MHMoEConfig",
    "MHMoEForCausalLM",
    "MHMoEForMaskedLM",
    "MHMoEModel",
    "MultiHead",
    "MultiHeadConfig",
    "MultiHeadMoE",
    "NormedConfig",
    "PerHeadRouterConfig",
    "ReleasedRouterConfig",
    "ResidualConfig",
    "Routing",
    "SparseMoE",
    "SparseMoEConfig",
    "SwitchRouterConfig",
    "XMoERouterConfig",
    "balance_loss",
    "config_from_dict",
    "fine_grained",
    "integrate",
    "latent_moe",
    "load_integrated",
    "match",
    "multi_head_moe",
    "upcycle",
]
