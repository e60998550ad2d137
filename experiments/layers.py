"""The layers that systems are made of or sized by, at a scale."""

from baselines.dense import dense as dense_config
from baselines.xmoe import xmoe as xmoe_config
from experiments.paper import paper_numbers
from experiments.scales import PAPER, Scale
from mhmoe.layers.config import LayerConfig
from mhmoe.layers.matching import with_sizes
from mhmoe.layers.multi_head import MultiHeadConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig

HEADS = 4
TABLE11_EXPERTS = tuple(int(n) for n in paper_numbers()["v1_table11_parameters_millions"]["english"]["mhmoe"])
"""How many experts the models of v1's Table 11 have."""


def reference(scale: Scale, num_experts: int, top_k: int = 1) -> SparseMoEConfig:
    """The X-MoE layer at a scale."""
    return xmoe_config(scale.model["hidden_size"], num_experts, top_k, **scale.ffn)


def dense_layer(scale: Scale) -> LayerConfig:
    """The feed-forward network of ordinary blocks. Its inner norm is left to the experts (v1 Table 11)."""
    options = {name: value for name, value in scale.ffn.items() if name != "inner_norm"}
    return dense_config(scale.model["hidden_size"], **options)


def table11_layer(num_experts: int) -> MultiHeadConfig:
    """MH-MoE as v1 Table 11 prints it (h = 4): the inner width follows from the printed expert parameters."""
    millions = paper_numbers()["v1_table11_parameters_millions"]["english"]["mhmoe"][str(num_experts)][1]
    base = reference(PAPER, num_experts)
    blocks = PAPER.model["num_hidden_layers"] // 2

    def experts(width: int) -> int:
        layer = with_sizes(base, heads=HEADS, top_k=1, expert_dim=width, num_experts=num_experts)
        assert isinstance(layer.inner, SparseMoEConfig)
        return blocks * layer.inner.experts.parameters()

    per_width = experts(2) - experts(1)
    width = round(1 + (millions * 1e6 - experts(1)) / per_width)
    return with_sizes(base, heads=HEADS, top_k=1, expert_dim=width, num_experts=num_experts)
