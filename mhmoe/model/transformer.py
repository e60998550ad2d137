"""The transformer that every system shares: attention, norm, rotary positions, block.

    x <- x + Attention(Norm(x))
    x <- x + FFN(Norm(x))

FFN is any feed-forward layer of this package; systems differ in it alone. Where a config leaves
something open, v1's stack is followed: pre-norm, and rotary positions as in the released script.

Departure from v1: no dropout, at any scale; its Table 10 has a "Transformer dropout" of 0.1.

Initialisation, all of it:
    embeddings                 normal, variance 1/dim, times sqrt(dim) on the way in: a token then enters with unit
                               variance, as large as what a block adds, and tied logits have unit variance too
    attention                  Xavier-uniform, gain 1/sqrt(2) for queries, keys, values, 1 for the output
    feed-forward and experts   normal, variance 1/(input width) of each matrix
    head and merge layers      Xavier-uniform, gain 1/sqrt(2) and 1 (v1 Appendix E)
    routers                    projection normal, variance 1/dim; embeddings orthogonal, gain 0.32 (as released; the
                               released router starts as its code in all, see routers.py)
    biases 0, norms 1
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward

from mhmoe.layers.bitnet import linear
from mhmoe.layers.experts import FFNOutput
from mhmoe.layers.routers import Routing
from mhmoe.model.config import MHMoEConfig


def make_norm(config: MHMoEConfig) -> nn.Module:
    return {"rms": nn.RMSNorm, "layer": nn.LayerNorm}[config.norm](config.hidden_size, eps=config.norm_eps)


def rotation(positions: Int[Tensor, "*rows length"], width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angles by which `rotate` turns pairs, in float32 (Su et al. 2021)."""
    frequencies = theta ** -(torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width)
    angles = positions.unsqueeze(-1).float() * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Float[Tensor, "batch heads length width"], cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x_i, x_{i + width/2}) by their position's angles."""
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)


class Attention(nn.Module):
    """Self-attention with rotary positions, causal or not; the kernel is the config's `attn_implementation`."""

    def __init__(self, config: MHMoEConfig, block: int) -> None:
        super().__init__()
        self.config, self.layer_idx = config, block
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.num_key_value_groups = 1  # transformers' kernels read these two
        self.is_causal = config.is_causal
        dim, bias, precision = config.hidden_size, config.attention_bias, config.attention_precision
        self.qkv_proj = linear(precision, dim, 3 * dim, bias, parts=3)
        self.o_proj = linear(precision, dim, dim, bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for part in self.qkv_proj.weight.chunk(3):
            nn.init.xavier_uniform_(part, gain=1 / math.sqrt(2))
        nn.init.xavier_uniform_(self.o_proj.weight)
        for layer in (self.qkv_proj, self.o_proj):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(
        self,
        x: Float[Tensor, "batch length dim"],
        rope: tuple[Tensor, Tensor],
        mask: Tensor | None = None,
        cache: Cache | None = None,
        **kernel: Any,
    ) -> tuple[Float[Tensor, "batch length dim"], Tensor | None]:
        """The output, and the attention weights if the kernel tells them; `kernel` are its further arguments."""
        if 0 in x.shape[:2]:  # which not all kernels know
            return self.o_proj(x), None
        qkv = self.qkv_proj(x).unflatten(-1, (3, -1, self.head_dim)).permute(2, 0, 3, 1, 4)
        query, key, value = rotate(qkv[0], *rope), rotate(qkv[1], *rope), qkv[2]
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        name = str(self.config._attn_implementation)  # pyright: ignore[reportPrivateUsage]  # it has no other name
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention_forward)
        device = "cpu" if x.is_meta else x.device.type  # the meta device has no autocast of its own
        if device == "cpu":  # where the backward of attention is three times as slow in bfloat16
            wide = torch.promote_types(x.dtype, torch.float32)
            query, key, value = query.to(wide), key.to(wide), value.to(wide)
        with torch.autocast(device, enabled=torch.is_autocast_enabled(device) and device != "cpu"):
            out, weights = attend(self, query, key, value, mask, dropout=0.0, scaling=self.head_dim**-0.5, **kernel)
        return self.o_proj(out.flatten(-2).to(x.dtype)), weights


class BlockOutput(NamedTuple):
    """What a block's feed-forward layer returned, with the block's own output as hidden, and its attention weights."""

    hidden: Float[Tensor, "batch length dim"]
    balance_loss: Float[Tensor, ""] | None
    routing: Routing | None
    attention: Tensor | None


class Block(GradientCheckpointingLayer):
    """One pre-norm block."""

    def __init__(self, config: MHMoEConfig, block: int) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.attention = Attention(config, block)
        self.feed_forward_norm = make_norm(config)
        self.feed_forward = config.layer(block).build()

    def forward(
        self,
        x: Float[Tensor, "batch length dim"],
        rope: tuple[Tensor, Tensor],
        mask: Tensor | None = None,
        padding: Bool[Tensor, "batch length"] | None = None,
        cache: Cache | None = None,
        **kernel: Any,
    ) -> BlockOutput:
        """`mask` is the attention kernel's; `padding` is False at padded tokens, which are not routed."""
        attended, weights = self.attention(self.attention_norm(x), rope, mask, cache, **kernel)
        x = x + attended
        output: FFNOutput = self.feed_forward(self.feed_forward_norm(x), padding)
        return BlockOutput(x + output.hidden, output.balance_loss, output.routing, weights)
