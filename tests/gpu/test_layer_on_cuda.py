"""The layer on a CUDA card: against float64 on the CPU, by every path; nothing waits, and memory stays bounded."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mhmoe.layers import card, fused, grouped, grouped_on_card
from mhmoe.layers.activations import ACTIVATIONS, GATED
from mhmoe.layers.config import LayerConfig
from mhmoe.layers.dispatch import combine, gather, sort_by_expert
from mhmoe.layers.experts import Experts, ExpertsConfig, use_kernels
from mhmoe.layers.multi_head import MultiHeadConfig, multi_head_moe
from mhmoe.layers.routers import DotProductRouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card; `make check-gpu` runs this on one"),
]
TYPES = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
PATHS: dict[str, fused.Kernels | None] = {
    "torch": None,
    "kernels, recomputed": fused.Kernels(),
    "kernels, kept": fused.Kernels(recompute=False),
}
each_path = pytest.mark.parametrize("path", PATHS)
each_type = pytest.mark.parametrize("dtype", TYPES, ids=str)


def error(ours: Tensor, theirs: Tensor) -> float:
    ours, theirs = ours.detach().cpu().double(), theirs.detach().cpu().double()
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-9))


def take(module: nn.Module, path: str) -> nn.Module:
    """The layer by one of PATHS."""
    if PATHS[path] is not None and not card.TRITON_IS_THERE:
        pytest.skip("triton is not installed")
    return use_kernels(module, PATHS[path])


@contextlib.contextmanager
def nobody_waits() -> Iterator[None]:
    """torch refuses every operation that makes the host wait for the card."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def problem(kind: str, top_k: int, rows: int = 300, experts: int = 7, dim: int = 192, inner: int = 320) -> Any:
    """Tensors in float64 on the CPU, and a choice in which one expert gets most and two get nothing."""
    torch.manual_seed(0)
    x, weight = torch.randn(rows, dim), torch.rand(rows, top_k)
    up = torch.randn(experts, inner * (2 if kind in GATED else 1), dim) / dim**0.5
    down = torch.randn(experts, dim, inner) / inner**0.5
    scores = torch.randn(rows, experts) + torch.linspace(3, 0, experts)
    scores[:, [1, experts - 1]] = -torch.inf
    tensors = [t.double().requires_grad_() for t in (x, up, down, weight)]
    return tensors, scores.topk(top_k).indices


def by_loop(tensors: list[Tensor], index: Tensor, kind: str) -> Tensor:
    """The definition, an expert at a time."""
    x, up, down, weight = tensors
    y = torch.zeros_like(x)
    for expert in range(len(up)):
        share = (weight * (index == expert)).sum(-1, keepdim=True)
        y = y + share * (ACTIVATIONS[kind]()(x @ up[expert].T) @ down[expert].T)
    return y


KINDS = [("gelu", 1), ("swiglu", 2), ("geglu", 1), ("relu2", 2), ("clamped_swiglu", 3), ("gelu_tanh", 1)]
OTHER_TYPES = [("swiglu", 2, torch.float32), ("swiglu", 2, torch.float16)]


@each_path
@pytest.mark.parametrize(
    ("kind", "top_k", "dtype"), [*((*kind, torch.bfloat16) for kind in KINDS), *OTHER_TYPES], ids=str
)
def test_experts_on_a_card_are_the_definition_in_float64(kind: str, top_k: int, path: str, dtype: torch.dtype) -> None:
    tensors, index = problem(kind, top_k)
    config = ExpertsConfig(dim=192, num_experts=7, expert_dim=320, activation=kind)  # pyright: ignore[reportArgumentType]
    experts = take(config.build().cuda().to(dtype), path)
    assert isinstance(experts, Experts)
    with torch.no_grad():
        experts.up_proj.copy_(tensors[1])
        experts.down_proj.copy_(tensors[2])
    x, weight = (t.detach().to("cuda", dtype).requires_grad_() for t in (tensors[0], tensors[3]))
    y = experts(x, index.cuda(), weight)
    grad = torch.randn(y.shape, dtype=torch.float64)
    found = torch.autograd.grad(y, [x, experts.up_proj, experts.down_proj, weight], grad.to("cuda", dtype))
    exact = [t.detach().cpu().double().requires_grad_() for t in (x, experts.up_proj, experts.down_proj, weight)]
    expected = by_loop(exact, index, kind)
    theirs = torch.autograd.grad(expected, exact, grad.to(dtype).double())
    wrong = [error(a, b) for a, b in zip([y, *found], [expected, *theirs], strict=True)]
    assert max(wrong) < TOLERANCE[dtype], wrong


@each_path
@pytest.mark.parametrize(("kind", "top_k"), [("gelu", 1), ("swiglu", 2)])
def test_forward_and_backward_never_wait_for_the_card(kind: str, top_k: int, path: str) -> None:
    if path == "torch" and not card.grouped_mm_is_fast(torch.empty(1, dtype=torch.bfloat16, device="cuda")):
        pytest.skip("F.grouped_mm has no kernel for this card")
    config = multi_head_moe(dim=768, num_experts=16, expert_dim=256, moe_heads=4, top_k=top_k, activation=kind)
    layer = take(config.build().cuda().bfloat16(), path)
    x = torch.randn(2, 512, 768, device="cuda", dtype=torch.bfloat16, requires_grad=True)

    def step() -> None:
        output = layer(x)
        (output.hidden.float().square().mean() + 0.01 * output.balance_loss).backward()

    step()  # compiles and tunes, which may wait
    torch.cuda.synchronize()
    with nobody_waits():
        step()


@each_path
@pytest.mark.parametrize("num_experts", [1, 1023, 1024, 2100])
def test_any_number_of_experts_works(num_experts: int, path: str) -> None:
    torch.manual_seed(0)
    experts = take(ExpertsConfig(dim=64, num_experts=num_experts, expert_dim=64).build().cuda().bfloat16(), path)
    x = torch.randn(4096, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    index, weight = torch.randint(0, num_experts, (4096, 1), device="cuda"), torch.rand(4096, 1, device="cuda")
    y = experts(x, index, weight)
    y.float().square().sum().backward()
    up, down = (p.detach().float() for p in experts.parameters())
    inner = torch.nn.functional.gelu(torch.einsum("rd,rfd->rf", x.float(), up[index[:, 0]]))
    expected = weight * torch.einsum("rf,rdf->rd", inner, down[index[:, 0]])
    assert error(y, expected) < 1e-2 and x.grad is not None and x.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in experts.parameters())
    chosen = torch.zeros(num_experts, dtype=torch.bool, device="cuda").index_fill(0, index[:, 0], True)
    assert all(not p.grad[~chosen].any() for p in experts.parameters() if p.grad is not None)


@each_type
def test_products_one_by_one_are_those_of_the_loop(dtype: torch.dtype) -> None:
    sizes = torch.tensor([0, 300, 0, 17, 1, 0])
    ends = sizes.cumsum(0).int().cuda()
    x, weight, grad = (torch.randn(*s, device="cuda").to(dtype) for s in ((318, 64), (6, 96, 64), (318, 96)))
    results: list[list[Tensor]] = []
    for product in (grouped.grouped_linear, grouped.loop_linear):
        a, w = x.clone().requires_grad_(), weight.clone().requires_grad_()
        y = product(a, w, ends)
        results.append([y, *torch.autograd.grad(y, (a, w), grad)])
    assert max(error(a, b) for a, b in zip(*results, strict=True)) < TOLERANCE[dtype]


def test_calls_of_several_grouped_products_read_no_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    if not card.grouped_mm_is_fast(torch.empty(1, dtype=torch.bfloat16, device="cuda")):
        pytest.skip("F.grouped_mm has no kernel for this card")
    monkeypatch.setattr(grouped_on_card, "MOST_GROUPS", 3)
    ends = torch.tensor([0, 30, 30, 47, 50, 64, 64], dtype=torch.int32, device="cuda")
    x, weight = (torch.randn(*s, device="cuda").bfloat16() for s in ((64, 64), (7, 96, 64)))
    with nobody_waits():
        y = grouped_on_card.linear_in_calls(x, weight, ends)
        outer = grouped_on_card.outer_in_calls(y, x, ends)
    assert error(y, grouped.loop_linear(x, weight, ends)) < 1e-2
    begins = [0, *ends.tolist()[:-1]]
    expected = [y[b:e].float().T @ x[b:e].float() for b, e in zip(begins, ends.tolist(), strict=True)]
    assert error(outer, torch.stack(expected)) < 1e-2


LAYERS: dict[str, LayerConfig] = {
    "multi-head": multi_head_moe(dim=96, num_experts=6, expert_dim=64, moe_heads=3, top_k=2),
    "multi-head, biases and norm": multi_head_moe(
        dim=96, num_experts=6, expert_dim=64, moe_heads=3, bias=True, inner_norm=True
    ),
    "with a capacity": multi_head_moe(dim=96, num_experts=6, expert_dim=64, moe_heads=3, capacity_factor=1.0),
    "renormalised": SparseMoEConfig(
        router=DotProductRouterConfig(dim=96, num_experts=6, top_k=2, renormalize=True),
        experts=ExpertsConfig(dim=96, num_experts=6, expert_dim=64, activation="swiglu"),
    ),
}


@each_path
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_on_a_card_is_the_layer_on_a_cpu(name: str, path: str) -> None:
    torch.manual_seed(0)
    here = LAYERS[name].build()
    there, x, mask = take(copy.deepcopy(here).cuda(), path), torch.randn(3, 40, 96), torch.rand(3, 40) < 0.9
    results: list[list[Tensor]] = []
    for layer, device in ((here, "cpu"), (there, "cuda")):
        rows = x.detach().to(device).requires_grad_()
        output = layer(rows, mask.to(device))
        loss = output.hidden.square().sum() + output.balance_loss
        results.append([output.hidden, loss, *torch.autograd.grad(loss, [rows, *layer.parameters()])])
    assert max(error(b, a) for a, b in zip(*results, strict=True)) < 1e-4


@each_path
def test_under_autocast_a_layer_computes_in_bfloat16(path: str) -> None:
    torch.manual_seed(0)
    layer = take(LAYERS["multi-head"].build().cuda(), path)
    x = torch.randn(3, 40, 96, device="cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        output = layer(x)
    assert output.hidden.dtype == torch.bfloat16 and output.routing.probabilities.dtype == torch.float32
    wide = layer(x)
    alike = (output.routing.index == wide.routing.index).flatten(2).all(dim=-1)  # rounding decides a close choice
    assert alike.float().mean() > 0.95
    assert error(output.hidden[alike], wide.hidden[alike]) < 2e-2
    output.hidden.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters() if p.requires_grad)


@each_path
def test_no_rows_give_no_rows(path: str) -> None:
    layer = take(LAYERS["multi-head"].build().cuda(), path)
    x = torch.randn(0, 96, device="cuda", requires_grad=True)
    output = layer(x)
    (output.hidden.sum() + output.balance_loss).backward()
    assert output.hidden.shape == (0, 96)


@each_path
def test_gradients_of_gradients_are_those_on_a_cpu(path: str) -> None:
    torch.manual_seed(0)
    here = LAYERS["renormalised"].build()
    there, x = take(copy.deepcopy(here).cuda(), path), torch.randn(20, 96)
    results: list[Tensor] = []
    for layer, device in ((here, "cpu"), (there, "cuda")):
        rows = x.detach().to(device).requires_grad_()
        (first,) = torch.autograd.grad(layer(rows).hidden.sin().sum(), rows, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), rows)[0])
    assert error(results[1], results[0]) < 1e-4


@pytest.mark.parametrize(
    ("path", "backend"), [*((path, "aot_eager") for path in PATHS), ("kernels, recomputed", "inductor")]
)
def test_torch_compile_takes_the_layer_as_one_graph(path: str, backend: str) -> None:
    torch.manual_seed(0)
    layer = take(LAYERS["multi-head"].build().cuda(), path)
    x, results = torch.randn(4, 32, 96, device="cuda"), list[list[Tensor]]()
    for run in (layer, torch.compile(layer, fullgraph=True, backend=backend)):
        rows = x.clone().requires_grad_()
        output = run(rows)
        loss = output.hidden.square().sum() + output.balance_loss
        results.append([output.hidden, *torch.autograd.grad(loss, [rows, *layer.parameters()])])
    assert max(error(a, b) for a, b in zip(*results, strict=True)) < 1e-4


@pytest.mark.parametrize("recompute", [True, False], ids=["recomputed", "kept"])
def test_the_same_step_twice_gives_the_same_bits(recompute: bool) -> None:
    if not card.TRITON_IS_THERE:
        pytest.skip("triton is not installed")
    tensors, index = problem("swiglu", 2, rows=2000)
    x, up, down, weight = (t.detach().cuda().bfloat16().requires_grad_() for t in tensors)
    order = sort_by_expert(index.cuda(), 7)
    found: list[list[Tensor]] = []
    for _ in range(3):
        y = fused.experts(x, up, down, weight, order, "swiglu", fused.Kernels(recompute))
        found.append([y, *torch.autograd.grad(y, (x, up, down, weight), torch.ones_like(y))])
    assert all(torch.equal(a, b) for a, b in zip(found[1], found[2], strict=True))


def test_recomputing_keeps_nothing_of_the_inner_width() -> None:
    if not card.TRITON_IS_THERE:
        pytest.skip("triton is not installed")
    experts = ExpertsConfig(dim=192, num_experts=8, expert_dim=2304).build().cuda().bfloat16()
    x = torch.randn(32_768, 192, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    index, weight = torch.randint(0, 8, (32_768, 1), device="cuda"), torch.rand(32_768, 1, device="cuda")
    held: dict[bool, int] = {}
    for recompute in (True, False):
        experts.kernels = fused.Kernels(recompute)
        experts(x, index, weight)  # tunes
        before = torch.cuda.memory_allocated()
        y = experts(x, index, weight)
        held[recompute] = torch.cuda.memory_allocated() - before - y.nbytes
        del y  # else it lies in what is counted `before` the next
    inner = 32_768 * 2304 * 2
    assert held[False] >= inner and held[True] < inner / 8


def test_gathering_and_combining_put_every_row_back() -> None:
    index = torch.randint(0, 9, (500, 3), device="cuda")
    order = sort_by_expert(index, 9)
    x, weight = torch.randn(500, 24, device="cuda"), torch.rand(500, 3, device="cuda")
    assert torch.equal(order.expert[order.slot.flatten()], index.flatten())
    assert torch.allclose(combine(gather(x, order), weight, order), x * weight.sum(-1, keepdim=True), atol=1e-5)


def test_equal_gates_choose_the_first_expert() -> None:
    router = DotProductRouterConfig(dim=8, num_experts=5, top_k=1).build().cuda()
    assert not router(torch.zeros(100, 8, device="cuda")).index.any()


def test_training_on_a_card_lowers_the_loss_as_on_a_cpu() -> None:
    """Ten steps of a small layer in float32: the losses stay together."""
    torch.manual_seed(0)
    config: MultiHeadConfig = multi_head_moe(dim=48, num_experts=4, expert_dim=64, moe_heads=3)
    here = config.build()
    there = copy.deepcopy(here).cuda()
    x, losses = torch.randn(64, 48), list[list[float]]()
    for layer, device in ((here, "cpu"), (there, "cuda")):
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        rows, found = x.to(device), list[float]()
        for _ in range(10):
            loss = (layer(rows).hidden - rows.roll(1, -1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        losses.append(found)
    assert losses[0][-1] < losses[0][0] and losses[1] == pytest.approx(losses[0], rel=1e-3)
