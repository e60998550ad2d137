"""How alike the experts of a layer are: what they make of the same rows.

    alike = mean over rows x and pairs p < q of experts of   cos(f_p(x), f_q(x))

f_p(x) is the output of expert p, before its gate, for a row x that enters the layer's experts: a token or a sub-token
of real text, whichever experts it would have been sent to. 1 if all experts are the same function up to a positive
factor, about 0 if they have nothing to do with each other. Weights are no measure of it: two equal functions may have
their inner units in another order. With u_p(x) = f_p(x) / |f_p(x)| the mean over pairs of N experts is
(|sum_p u_p|^2 - N) / (N (N - 1)); rows for which an expert gives 0 are left out.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mhmoe.layers.beside import Beside
from mhmoe.layers.dense_mixture import DenseMixture
from mhmoe.layers.expert_choice import ExpertChoice
from mhmoe.layers.experts import Experts
from mhmoe.layers.hierarchical import HierarchicalMoE
from mhmoe.layers.latent import Latent
from mhmoe.layers.multi_head import MultiHead, split
from mhmoe.layers.normed import Normed
from mhmoe.layers.sparse_moe import Residual, SparseMoE
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.model.transformer import Block, rotation

_ROWS = 1024  # at a time: all experts of a layer see them, and what all are within is experts x rows x inner width


@torch.no_grad()
def alike(model: MHMoEForCausalLM, tokens: Int[Tensor, "batch length"]) -> list[float]:
    """Of each layer that has several experts which see the same rows, first to last. Leaves the model evaluating."""
    device = next(model.parameters()).device
    states = model.eval()(tokens.to(device), output_hidden_states=True).hidden_states
    found: list[float] = []
    for block, x in zip(model.model.layers, states, strict=False):
        assert isinstance(block, Block)
        groups = [(experts, rows.flatten(0, -2)) for experts, rows in entering(block, x)]
        if sum(experts.num_experts for experts, _ in groups) > 1:
            cosines = [_cosines(_outputs(groups, start, _ROWS)) for start in range(0, len(groups[0][1]), _ROWS)]
            found.append(float(torch.cat(cosines).mean()))
    return found


def entering(block: Block, x: Float[Tensor, "batch length dim"]) -> Iterator[tuple[Experts, Tensor]]:
    """The experts of a block, with the rows that enter them, whatever is routed where; `x` enters the block."""
    width = block.attention.head_dim
    cos, sin = rotation(
        torch.arange(x.shape[1], device=x.device).unsqueeze(0), width, block.attention.config.rope_theta
    )
    config: Any = block.attention.config
    eager = config._attn_implementation == "eager"  # which sees the future unless it is hidden
    hides = eager and config.is_causal
    hidden = x.new_full((x.shape[1], x.shape[1]), float("-inf")).triu(1)[None, None] if hides else None
    attended, _ = block.attention(block.attention_norm(x), (cos.unsqueeze(1), sin.unsqueeze(1)), hidden)
    yield from _of_layer(block.feed_forward, block.feed_forward_norm(x + attended))


def _of_layer(layer: nn.Module, x: Tensor) -> Iterator[tuple[Experts, Tensor]]:
    if isinstance(layer, SparseMoE | DenseMixture | ExpertChoice):
        yield layer.experts, x
    elif isinstance(layer, MultiHead):
        yield from _of_layer(layer.inner, split(layer.head(x), layer.heads))
    elif isinstance(layer, Latent):
        yield from _of_layer(layer.inner, layer.to_latent(x))
    elif isinstance(layer, Beside):
        yield from _of_layer(layer.routed, x)
    elif isinstance(layer, Normed | Residual):
        yield from _of_layer(layer.inner, x)
    elif isinstance(layer, HierarchicalMoE):
        for inner in layer.inner:
            yield from _of_layer(inner, x)


def _outputs(groups: Sequence[tuple[Experts, Tensor]], start: int, rows: int) -> Float[Tensor, "experts rows dim"]:
    """What all experts make of some of the rows."""
    return torch.cat(
        [experts.each(of_all[start : start + rows].expand(experts.num_experts, -1, -1)) for experts, of_all in groups]
    )


def _cosines(outputs: Float[Tensor, "experts rows dim"]) -> Float[Tensor, "some"]:
    """Of each row for which no expert gives 0, the mean over pairs."""
    wide = outputs.double()
    norm = wide.norm(dim=-1, keepdim=True)
    some = (norm > 0).all(dim=0).squeeze(-1)
    together = (wide[:, some] / norm[:, some]).sum(dim=0)
    count = len(outputs)
    return (together.square().sum(dim=-1) - count) / (count * (count - 1))
