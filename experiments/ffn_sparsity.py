"""FFN sparsity: how many inner numbers of a trained dense network a token makes use of, with GELU and with ReLU.

Introductions to mixtures of experts say that a dense network leaves most of its neurons idle. Measured on the dense
model of the scale, and on the same with ReLU in every block, whose numbers can be exactly 0; the untrained models say
what is there before any training (with ReLU: half). No table of the papers.
Cost: cpu 3 min a run of the ReLU model on one core; the dense runs are those of Table 1.
Run: python -m experiments run ffn_sparsity --scale cpu
"""

import dataclasses

from baselines.dense import dense as dense_config
from experiments.kinds.sparsity import ACTIVATION_SPARSITY, SparsityPage
from experiments.scales import Scale
from experiments.systems import dense
from mhmoe.layers.config import LayerConfig


def _relu(scale: Scale) -> LayerConfig:
    return dense_config(scale.model["hidden_size"], "relu", scale.ffn.get("bias", False))


DENSE = dense()
RELU = dataclasses.replace(
    DENSE, name="dense_relu", label="Dense, ReLU", layer=_relu, feed_forward=_relu, seeds=3, tuned_as=DENSE
)
PAGE = SparsityPage(
    slug="ffn_sparsity",
    title="How sparse the inner activations of trained dense networks are",
    systems=(DENSE, RELU),
    measurements=(ACTIVATION_SPARSITY,),
)
