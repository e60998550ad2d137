"""The layers that are compared. What is compared with each other does the same work on the same rows.

    on tokens       dense         SwiGLU FFN of the MH-MoE layer's FLOPs (router, head and merge counted)
                    dense_onednn  the same FFN by the oneDNN products that our experts use (float32 alone:
                                  in bfloat16 torch's own products are oneDNN's)
                    mhmoe         our layer
                    mhmoe_loop    the same layer and weights with `dispatch.loop_linear` as expert product
    on sub-tokens   sparse        our SparseMoE: the same experts, a dot-product router, renormalised weights
                    mixtral_*     transformers' Mixtral block: the same function with the same weights

A step is forward, backward to the input and to all weights, and the release of the gradients. Our layers
also compute their balance loss and its gradient, which Mixtral's block and a dense FFN do not have.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.peers import LoopExperts, OneDNNFeedForward, mixtral
from mhmoe.layers.experts import Experts, ExpertsConfig, FeedForward, FeedForwardConfig, FFNOutput
from mhmoe.layers.matching import follow_up_sizes
from mhmoe.layers.multi_head import MultiHeadConfig, multi_head_moe
from mhmoe.layers.routers import DotProductRouterConfig
from mhmoe.layers.sparse_moe import SparseMoE, SparseMoEConfig

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
    """Of one benchmark. An expert's inner width is solved (v2 Eq. 8) for a SwiGLU reference of 8/3 dim."""

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
            router=DotProductRouterConfig(dim=width, num_experts=num_experts, top_k=self.top_k, renormalize=True),
            experts=ExpertsConfig(dim=width, num_experts=num_experts, expert_dim=self.expert_dim, activation="swiglu"),
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
        """As `step`."""
        assert self.module is not None
        return step(self.module, batch.subtokens if self.on_subtokens else batch.tokens, batch.grad)


def step(module: nn.Module, x: Tensor, grad: Tensor) -> Tensor:
    """Forward, backward, gradients released; returns the output, whose gradient has the numbers of `grad`."""
    output = module(x)
    hidden = output.hidden if isinstance(output, FFNOutput) else output
    losses, gradients = [hidden], [grad.view_as(hidden)]
    if isinstance(output, FFNOutput) and output.balance_loss is not None:
        losses.append(output.balance_loss)
        gradients.append(torch.full_like(output.balance_loss, BALANCE_WEIGHT))
    torch.autograd.backward(losses, gradients)
    module.zero_grad(set_to_none=True)
    x.grad = None
    return hidden.detach()


def contenders(sizes: Sizes, num_experts: int, dtype: torch.dtype) -> list[Contender]:
    """All of them, in the order in which they are timed. Those with the same experts share the weights."""
    layer, sparse, dense = sizes.layer(num_experts), sizes.sparse(num_experts), sizes.dense(num_experts)
    modules: dict[str, nn.Module | None] = {"dense": dense.build().to(dtype)}
    if dtype == torch.float32:
        assert isinstance(modules["dense"], FeedForward)
        modules["dense_onednn"] = OneDNNFeedForward(modules["dense"])
    modules["mhmoe"] = mhmoe = layer.build().to(dtype)
    experts = mhmoe.get_submodule("inner.experts")
    assert isinstance(experts, Experts)
    modules["mhmoe_loop"] = loop = _without_experts(layer).to(dtype)
    loop.load_state_dict(mhmoe.state_dict(), strict=False)
    loop.get_submodule("inner").add_module("experts", LoopExperts(experts))
    modules["sparse"] = ours = _sharing(sparse, experts, dtype)
    for implementation in IMPLEMENTATIONS:
        runs = implementation != "eager" or num_experts <= MOST_EXPERTS_IN_EAGER
        modules[f"mixtral_{implementation}"] = mixtral(ours, sizes.top_k, implementation) if runs else None

    found = []
    for name, module in modules.items():
        on_subtokens = name == "sparse" or name.startswith("mixtral")
        config = sparse if on_subtokens else dense if name.startswith("dense") else layer
        rows = sizes.tokens * (sizes.heads if on_subtokens else 1)
        flops = 3 * rows * config.flops_per_token()  # backward makes two products of each
        note = "" if module is not None else TOO_SLOW
        found.append(Contender(name, module, on_subtokens, flops, config.parameters(), note))
    return found


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
