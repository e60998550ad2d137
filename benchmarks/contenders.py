"""The layers that are compared. What is compared with each other does the same work on the same rows.

    on tokens       dense        SwiGLU FFN whose FLOPs are the MH-MoE layer's (router, head and merge counted)
                    dense_onednn the same FFN by the oneDNN products that our experts use (float32 alone:
                                 in bfloat16 torch's own products are oneDNN's)
                    mhmoe        our layer
                    mhmoe_loop   the same layer and weights with `dispatch.loop_linear` as expert product
    on sub-tokens   sparse       our SparseMoE: the same experts, a dot-product router with renormalised weights
                    mixtral_*    transformers' Mixtral block: the same function with the same weights

A step is forward, backward to the input and to all weights, and the release of the gradients. Our layers
also compute their balance loss and its gradient, which Mixtral's block and a dense FFN do not have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

from mhmoe.dispatch import _product as onednn_product
from mhmoe.dispatch import combine, gather, loop_linear, sort_by_expert
from mhmoe.experts import Experts, ExpertsConfig, FeedForward, FeedForwardConfig, FFNOutput
from mhmoe.matching import follow_up_sizes
from mhmoe.multi_head import MultiHeadConfig, multi_head_moe
from mhmoe.routers import DotProductRouterConfig
from mhmoe.sparse_moe import SparseMoE, SparseMoEConfig

BALANCE_WEIGHT = 0.01
DENSE_MULTIPLE = 8  # an odd inner width would slow the dense FFN's products down
MOST_EXPERTS_IN_EAGER = 64
TOO_SLOW = (
    "not run, too slow: eager adds every expert's gradient into one of all experts, "
    "so its time grows with the square of their number"
)
IMPLEMENTATIONS = ("grouped_mm", "eager")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of one benchmark. The inner width of an expert is solved (v2 Eq. 8) for a SwiGLU reference of 8/3 dim."""

    dim: int = 768
    heads: int = 2
    top_k: int = 2
    tokens: int = 4096
    num_experts: Sequence[int] = (8, 64, 256)

    @property
    def expert_dim(self) -> int:
        width, _ = follow_up_sizes(
            dim=self.dim,
            heads=self.heads,
            top_k=self.top_k,
            inner_dim=8 * self.dim / 3,
            num_experts=1,  # the width does not depend on it
            matrices=3,
        )
        return round(width)

    def layer(self, num_experts: int) -> MultiHeadConfig:
        return multi_head_moe(
            dim=self.dim,
            num_experts=num_experts,
            expert_dim=self.expert_dim,
            moe_heads=self.heads,
            top_k=self.top_k,
            activation="swiglu",
        )

    def sparse(self, num_experts: int) -> SparseMoEConfig:
        width = self.dim // self.heads
        return SparseMoEConfig(
            router=DotProductRouterConfig(
                dim=width, num_experts=num_experts, top_k=self.top_k, renormalize=True
            ),
            experts=ExpertsConfig(
                dim=width, num_experts=num_experts, expert_dim=self.expert_dim, activation="swiglu"
            ),
        )

    def dense(self, num_experts: int) -> FeedForwardConfig:
        """Inner width solved for the FLOPs of `layer`, to the nearest multiple of DENSE_MULTIPLE."""

        def network(inner: int) -> FeedForwardConfig:
            return FeedForwardConfig(dim=self.dim, inner_dim=inner, activation="swiglu")

        wanted = self.layer(num_experts).flops_per_token() / network(1).flops_per_token()
        return network(max(round(wanted / DENSE_MULTIPLE), 1) * DENSE_MULTIPLE)


class Batch:
    """One input and one output gradient, as tokens and, sharing the numbers, as sub-tokens."""

    def __init__(self, sizes: Sizes, dtype: torch.dtype) -> None:
        self.tokens = torch.empty(1, sizes.tokens, sizes.dim, dtype=dtype, requires_grad=True)
        width = sizes.dim // sizes.heads
        self.subtokens = self.tokens.detach().view(1, -1, width).requires_grad_()
        self.grad = torch.empty_like(self.tokens, requires_grad=False)

    def draw(self) -> None:
        """New numbers and thus a new routing: one that repeats would flatter products that cache by shape."""
        for tensor in (self.tokens, self.grad):
            tensor.data.normal_()


@dataclass(frozen=True)
class Contender:
    """A layer and its work in one step. `module` is None where it is not run, and `note` says why."""

    name: str
    module: nn.Module | None
    on_subtokens: bool
    flops: int
    parameters: int
    note: str = ""

    def step(self, batch: Batch) -> Tensor:
        """Forward, backward, gradients released; returns the output."""
        assert self.module is not None
        x = batch.subtokens if self.on_subtokens else batch.tokens
        output = self.module(x)
        hidden = output.hidden if isinstance(output, FFNOutput) else output
        losses, gradients = [hidden], [batch.grad.view_as(hidden)]
        if isinstance(output, FFNOutput) and output.balance_loss is not None:
            losses.append(output.balance_loss)
            gradients.append(torch.full_like(output.balance_loss, BALANCE_WEIGHT))
        torch.autograd.backward(losses, gradients)
        self.release(batch)
        return hidden.detach()

    def release(self, batch: Batch) -> None:
        assert self.module is not None
        self.module.zero_grad(set_to_none=True)
        batch.tokens.grad = batch.subtokens.grad = None


def contenders(sizes: Sizes, num_experts: int, dtype: torch.dtype) -> list[Contender]:
    """All of them, in the order in which they are timed. Those with the same experts share the weights."""
    layer, sparse, dense = (f(num_experts) for f in (sizes.layer, sizes.sparse, sizes.dense))
    modules: dict[str, nn.Module | None] = {"dense": dense.build().to(dtype)}
    if dtype == torch.float32:
        modules["dense_onednn"] = OneDNNFeedForward(modules["dense"], dense)
    modules["mhmoe"] = mhmoe = layer.build().to(dtype)
    experts = mhmoe.get_submodule("inner.experts")
    assert isinstance(experts, Experts)
    modules["mhmoe_loop"] = loop = _without_experts(layer).to(dtype)
    loop.load_state_dict(mhmoe.state_dict(), strict=False)
    loop.get_submodule("inner").add_module("experts", LoopExperts(experts))
    modules["sparse"] = ours = _sharing(sparse, experts, dtype)
    for implementation in IMPLEMENTATIONS:
        runs = implementation != "eager" or num_experts <= MOST_EXPERTS_IN_EAGER
        modules[f"mixtral_{implementation}"] = mixtral(ours, implementation) if runs else None

    found = []
    for name, module in modules.items():
        on_subtokens = name == "sparse" or name.startswith("mixtral")
        config = sparse if on_subtokens else dense if name.startswith("dense") else layer
        rows = sizes.tokens * (sizes.heads if on_subtokens else 1)
        flops = 3 * rows * config.flops_per_token()  # backward makes two products of each
        note = "" if module is not None else TOO_SLOW
        found.append(Contender(name, module, on_subtokens, flops, config.parameters(), note))
    return found


class OneDNNLinear(torch.autograd.Function):
    """x W^T with all three products by oneDNN, as in mhmoe.dispatch."""

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
    """The network of `dense`, sharing its weights."""

    def __init__(self, dense: nn.Module | None, config: FeedForwardConfig) -> None:
        super().__init__()
        assert isinstance(dense, FeedForward) and not config.bias and not config.inner_norm
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
        inner = loop_linear(gather(x.flatten(0, -2), order), self.up_proj, order.ends)
        out = loop_linear(self.activation(inner), self.down_proj, order.ends)
        return combine(out, weight, order).view(x.shape)


def mixtral(ours: SparseMoE, implementation: str) -> nn.Module:
    """transformers' block with the router and the experts of `ours`."""
    config = ours.router.config
    count, inner, width = (ours.experts.down_proj.shape[i] for i in (0, 2, 1))
    settings = MixtralConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_local_experts=count,
        num_experts_per_tok=config.top_k,
    )
    settings._experts_implementation = implementation
    with torch.device("meta"):
        block = MixtralSparseMoeBlock(settings)
    block.gate.weight = ours.router.get_parameter("expert_embeddings")
    block.experts.gate_up_proj, block.experts.down_proj = ours.experts.up_proj, ours.experts.down_proj
    return block


def _sharing(config: SparseMoEConfig, experts: Experts, dtype: torch.dtype) -> SparseMoE:
    with torch.device("meta"):
        module = config.build()
    module.router = config.router.build().to(dtype)
    module.experts = experts
    return module


def _without_experts(config: MultiHeadConfig) -> nn.Module:
    """The layer with its experts still to come."""
    with torch.device("meta"):
        module = config.build()
    inner = module.get_submodule("inner")
    del inner.experts
    return module.to_empty(device="cpu")
