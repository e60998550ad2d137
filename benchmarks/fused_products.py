"""A candidate for the card: experts whose activation is a part of the products, by quack-kernels.

quack's products for Hopper (an extra: `pip install quack-kernels`, imported here alone) take a matrix a group of rows,
and have an activation or its gradient in their epilogue. So a step passes over the inner width nine times and not
eleven, none of them for the activation alone, and keeps z alone from forward for backward, which makes a again from it.

    forward    z, a = x W_up^T, act(z)           y = a W_down^T
    backward   z' = (y' W_down) act'(z), a       W_down' = y'^T a    W_up' = z'^T x    x' = z' W_up

Not measured on a card yet: card_speed.py times it beside the others where quack is installed.
"""

import importlib.util
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from mhmoe.layers.dispatch import combine, gather, sort_by_expert
from mhmoe.layers.experts import Experts

ACTIVATION = "gelu_erf"  # quack's name of the exact GELU
TUNED = False  # trying every tile takes ten seconds each to compile


def is_there() -> bool:
    """Whether quack and a card of compute capability 9 are."""
    found = importlib.util.find_spec("quack") is not None
    return found and torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9


def products() -> Any:
    """quack's module with gemm, gemm_act and gemm_dact."""
    from quack import gemm_interface  # pyright: ignore[reportMissingImports]

    return gemm_interface


def put_into(module: nn.Module) -> nn.Module:
    """The layer with its experts computed so."""
    for name, part in list(module.named_modules()):
        if isinstance(part, Experts):
            parent, _, last = name.rpartition(".")
            module.get_submodule(parent).add_module(last, FusedExperts(part))
    return module


class FusedExperts(nn.Module):
    """`Experts` with GELU and without biases and norms; shares the weights. ValueError for others."""

    def __init__(self, experts: Experts) -> None:
        super().__init__()
        if not experts.plain or experts.activation_name != "gelu":
            raise ValueError(f"experts with {experts.activation_name}, biases or norms; GELU alone is fused here")
        self.up_proj, self.down_proj, self.num_experts = experts.up_proj, experts.down_proj, experts.num_experts

    def forward(self, x: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        order = sort_by_expert(index.flatten(0, -2), self.num_experts)
        ends = F.pad(order.offsets, (1, 0))
        rows = gather(x.flatten(0, -2), order)
        y = _Network.apply(rows, self.up_proj, self.down_proj, ends)
        assert isinstance(y, Tensor)
        return combine(y, weight.flatten(0, -2), order).view(x.shape)


class _Network(torch.autograd.Function):
    """W_down act(W_up x) of sorted rows; those of expert p lie between ends[p] and ends[p + 1]."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "selections dim"],
        up: Float[Tensor, "experts inner dim"],
        down: Float[Tensor, "experts dim inner"],
        ends: Int[Tensor, " experts+1"],
    ) -> Tensor:
        by = products()
        z, a = by.gemm_act(x, up.mT, activation=ACTIVATION, cu_seqlens_m=ends, tuned=TUNED)
        ctx.save_for_backward(x, up, down, ends, z)
        return by.gemm(a, down.mT, cu_seqlens_m=ends, tuned=TUNED)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        by, (x, up, down, ends, z), grad = products(), ctx.saved_tensors, grads[0].contiguous()
        z_grad, a = by.gemm_dact(grad, down, z, activation=ACTIVATION, cu_seqlens_m=ends, tuned=TUNED)
        x_grad = by.gemm(z_grad, up, cu_seqlens_m=ends, tuned=TUNED)
        up_grad = by.gemm(z_grad.mT, x, cu_seqlens_k=ends, tuned=TUNED)
        down_grad = by.gemm(grad.mT, a, cu_seqlens_k=ends, tuned=TUNED)
        return x_grad, up_grad, down_grad, None
