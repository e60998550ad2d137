"""Experts by quack's products, whose functions are written here anew, from what its documentation says of them."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import fused_products
from benchmarks.fused_products import FusedExperts, put_into
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.matching import match
from mhmoe.layers.routers import XMoERouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig

BASE = SparseMoEConfig(
    router=XMoERouterConfig(dim=16, num_experts=4), experts=ExpertsConfig(dim=16, num_experts=4, expert_dim=64)
)


def gemm(
    a: Tensor, b: Tensor, *, cu_seqlens_m: Tensor | None = None, cu_seqlens_k: Tensor | None = None, tuned: bool
) -> Tensor:
    """Rows of a group times its matrix; or, for the second, a product over the rows of each group."""
    if cu_seqlens_k is not None:
        assert a.stride(0) == 1, "a is to be given as the transpose of rows"
        ends = cu_seqlens_k.tolist()
        return torch.stack([a[:, i:j] @ b[i:j] for i, j in pairwise(ends)])
    assert cu_seqlens_m is not None
    ends = cu_seqlens_m.tolist()
    return torch.cat([a[i:j] @ matrix for (i, j), matrix in zip(pairwise(ends), b, strict=True)])


def gemm_act(a: Tensor, b: Tensor, *, activation: str, cu_seqlens_m: Tensor, tuned: bool) -> tuple[Tensor, Tensor]:
    assert activation == "gelu_erf"
    z = gemm(a, b, cu_seqlens_m=cu_seqlens_m, tuned=tuned)
    return z, F.gelu(z)


def gemm_dact(
    a: Tensor, b: Tensor, z: Tensor, *, activation: str, cu_seqlens_m: Tensor, tuned: bool
) -> tuple[Tensor, Tensor]:
    assert activation == "gelu_erf"
    slope = torch.special.ndtr(z) + z * torch.exp(-z.square() / 2) / (2 * torch.pi) ** 0.5
    return gemm(a, b, cu_seqlens_m=cu_seqlens_m, tuned=tuned) * slope, F.gelu(z)


@pytest.fixture(autouse=True)
def quack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        fused_products, "products", lambda: SimpleNamespace(gemm=gemm, gemm_act=gemm_act, gemm_dact=gemm_dact)
    )


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("heads", [0, 4], ids=["X-MoE", "MH-MoE"])
def test_output_and_gradients_are_those_of_our_experts(top_k: int, heads: int) -> None:
    config = (
        match("compute", BASE, heads=heads, top_k=top_k, multiple_of=8)
        if heads
        else BASE.replace(router=BASE.router.replace(top_k=top_k))
    )
    ours = config.build().double()
    theirs = config.build().double()
    theirs.load_state_dict(ours.state_dict())
    assert any(isinstance(part, FusedExperts) for part in put_into(theirs).modules())
    x = torch.randn(2, 9, 16, dtype=torch.double)
    found = []
    for module in (ours, theirs):
        given = x.clone().requires_grad_()
        output = module(given)
        (output.hidden.square().sum() + output.balance_loss).backward()
        found.append((output.hidden, given.grad, {name: p.grad for name, p in module.named_parameters()}))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)


def test_what_it_does_not_compute_is_refused() -> None:
    for changes in ({"activation": "swiglu"}, {"bias": True}, {"inner_norm": True}):
        with pytest.raises(ValueError, match="GELU alone"):
            put_into(BASE.replace(experts=BASE.experts.replace(**changes)).build())
