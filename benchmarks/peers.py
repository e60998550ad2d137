"""Layers that stand beside ours in the benchmark, all sharing the weights of one of ours."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

from mhmoe.layers.dispatch import combine, gather, sort_by_expert
from mhmoe.layers.experts import Experts, FeedForward
from mhmoe.layers.grouped import _product as onednn_product
from mhmoe.layers.grouped import loop_linear
from mhmoe.layers.sparse_moe import SparseMoE


class OneDNNLinear(torch.autograd.Function):
    """x W^T with all three products by oneDNN, as in mhmoe.grouped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return onednn_product(x, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return onednn_product(grads[0], weight.t()), onednn_product(grads[0].t(), x.t())


class OneDNNFeedForward(nn.Module):
    """`FeedForward` without biases and norm; shares the weights of `dense`."""

    def __init__(self, dense: FeedForward) -> None:
        super().__init__()
        self.dense = dense

    def forward(self, x: Tensor) -> Tensor:
        inner = OneDNNLinear.apply(x.flatten(0, -2), self.dense.up_proj.weight)
        out = OneDNNLinear.apply(self.dense.activation(inner), self.dense.down_proj.weight)
        assert isinstance(out, Tensor)
        return out.view_as(x)


class LoopExperts(nn.Module):
    """`Experts` without biases and norms, with the readable product; shares the weights."""

    def __init__(self, experts: Experts) -> None:
        super().__init__()
        self.up_proj, self.down_proj = experts.up_proj, experts.down_proj
        self.activation = experts.activation

    def forward(self, x: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        index, weight = index.flatten(0, -2), weight.flatten(0, -2)
        order = sort_by_expert(index, len(self.up_proj))
        inner = loop_linear(gather(x.flatten(0, -2), order), self.up_proj, order.offsets)
        out = loop_linear(self.activation(inner), self.down_proj, order.offsets)
        return combine(out, weight, order).view(x.shape)


def mixtral(ours: SparseMoE, top_k: int, implementation: str) -> nn.Module:
    """transformers' block with the router and the experts of `ours`."""
    count, width, inner = ours.experts.down_proj.shape
    settings = MixtralConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_local_experts=count,
        num_experts_per_tok=top_k,
    )
    settings._experts_implementation = implementation
    with torch.device("meta"):
        block = MixtralSparseMoeBlock(settings)
    block.gate.weight = ours.router.get_parameter("expert_embeddings")
    block.experts.gate_up_proj, block.experts.down_proj = ours.experts.up_proj, ours.experts.down_proj
    return block
