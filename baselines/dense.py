"""Dense: the transformer without mixture of experts, the first row of v1 Table 1.

Every block has the same feed-forward network of inner width 4 d. It has the FLOPs of one expert
and so fewer parameters than any other row.

Not published: nothing that matters here. Departures: none.
"""

from mhmoe.layers.activations import ActivationName
from mhmoe.layers.experts import FeedForwardConfig


def dense(
    dim: int, activation: ActivationName = "gelu", bias: bool = False, inner_norm: bool = False
) -> FeedForwardConfig:
    """The network of every block, inner width 4 dim."""
    return FeedForwardConfig(dim=dim, inner_dim=4 * dim, activation=activation, bias=bias, inner_norm=inner_norm)
