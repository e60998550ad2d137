"""The kernels of the experts: through Triton's interpreter on this CPU, and compiled for cards that are not here.

Both run in processes of their own, as the interpreter is chosen when Triton is imported. They are skipped where Triton
is not installed (`pip install mhmoe[triton]`; a CPU build of torch does not bring it). The interpreter wants
numpy below 2.3 too, and knows no bfloat16: half precision is float16 here.
"""

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from mhmoe.layers import fused
from tests.commands import ROOT

NO_TRITON = importlib.util.find_spec("triton") is None
OLD_NUMPY = tuple(map(int, np.__version__.split(".")[:2])) < (2, 3)
needs_triton = pytest.mark.skipif(NO_TRITON, reason="triton is not installed: pip install mhmoe[triton]")
needs_interpreter = pytest.mark.skipif(
    NO_TRITON or not OLD_NUMPY, reason="Triton's interpreter needs triton and numpy below 2.3"
)

INTERPRETED = """
import json
from unittest.mock import patch
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from mhmoe.layers import card, fused, grouped, grouped_on_card
from mhmoe.layers.activations import ACTIVATIONS, GATED
from mhmoe.layers.dispatch import sort_by_expert
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.multi_head import multi_head_moe
torch.set_num_threads(1)
WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "_unique2", "equal")


class NobodyWaits(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in WAITS, f"{func} makes the host wait"
        return func(*args, **(kwargs or {}))


def error(ours, theirs):
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-9))


def inputs(kind, top_k, dtype, rows=9, experts=5, dim=24, inner=40):
    torch.manual_seed(0)
    x, weight = torch.randn(rows, dim), torch.rand(rows, top_k)
    up = 2 * torch.randn(experts, inner * (2 if kind in GATED else 1), dim) / dim**0.5
    down = torch.randn(experts, dim, inner) / inner**0.5
    index = torch.randint(0, 4, (rows, top_k))  # two experts get nothing
    index[index == 1] = 0  # and one between two others
    order = sort_by_expert(index, experts)
    return [t.to(dtype).requires_grad_() for t in (x, up, down)] + [weight.requires_grad_()], order


def compare(kind, top_k, recompute, largest, dtype=torch.float32, transposed=False, **sizes):
    tensors, order = inputs(kind, top_k, dtype, **sizes)
    if transposed:  # matrices that lie in memory as their transposes do
        tensors[1:3] = [t.detach().mT.contiguous().mT.requires_grad_() for t in tensors[1:3]]
    exact = [t.detach().float().requires_grad_() for t in tensors]
    grad = torch.randn_like(tensors[0])
    with patch.object(fused, "LARGEST", largest), NobodyWaits():
        y = fused.experts(*tensors, order, kind, fused.Kernels(recompute))
        found = [y, *torch.autograd.grad(y, tensors, grad)]
    expected = fused.reference(*exact, order, kind)
    theirs = [expected, *torch.autograd.grad(expected, exact, grad.float())]
    assert all(a.dtype == t.dtype for a, t in zip(found[1:], tensors))
    empty = order.offsets.diff(prepend=order.offsets.new_zeros(1)) == 0
    assert empty.sum() >= 2 and not any(g[empty].any() for g in found[2:4])
    return max(error(a, b) for a, b in zip(found, theirs))


report = {}
card.on_card, card.capability, card.TRITON_IS_THERE = lambda x: True, lambda device: 80, True
for kind in ACTIVATIONS:
    report[kind] = compare(kind, 2, True, 2**29)
for kind in ("gelu", "clamped_swiglu"):
    report[f"{kind}, kept"] = compare(kind, 2, False, 2**29)
report["one choice"] = compare("gelu", 1, True, 2**29)
report["in slices"] = compare("swiglu", 2, True, 9 * 2 * 64 * 4, inner=136)
report["in slices, kept"] = compare("gelu", 2, False, 9 * 2 * 64 * 4, inner=136)
report["transposed weights"] = compare("swiglu", 2, True, 2**29, transposed=True)
report["transposed weights, kept"] = compare("gelu", 1, False, 2**29, transposed=True)
report["width 192"] = compare("gelu", 1, True, 2**29, dim=192, inner=40, rows=9)
report["one row"] = compare("swiglu", 1, True, 2**29, rows=1)
report["many experts"] = compare("gelu", 1, True, 2**29, rows=5, experts=17, dim=16, inner=16)
half = {kind: compare(kind, 2, True, 2**29, torch.float16) for kind in ("gelu", "swiglu")}

tensors, order = inputs("swiglu", 2, torch.float32)
seconds = []
for run in (lambda: fused.experts(*tensors, order, "swiglu", fused.Kernels()),
            lambda: fused.reference(*tensors, order, "swiglu")):
    first = torch.autograd.grad(run().sin().sum(), tensors, create_graph=True)
    seconds.append(torch.autograd.grad(sum(g.square().sum() for g in first), tensors))
report["gradients of gradients"] = max(error(a, b) for a, b in zip(*seconds))

config = multi_head_moe(dim=32, num_experts=3, expert_dim=40, moe_heads=2, top_k=1)
layer, x = config.build(), torch.randn(2, 9, 32, requires_grad=True)
layers = []
for kernels in (None, fused.Kernels(), fused.Kernels(recompute=False)):
    layer.inner.experts.kernels = kernels
    output = layer(x)
    loss = output.hidden.sin().sum() + output.balance_loss
    layers.append([output.hidden, *torch.autograd.grad(loss, [x, *layer.parameters()])])
report["a whole layer"] = max(error(a, b) for run in layers[1:] for a, b in zip(run, layers[0]))

products = []
x, weight, ends = torch.randn(15, 8), torch.randn(4, 5, 8), torch.tensor([3, 3, 10, 15], dtype=torch.int32)
grad = torch.randn(15, 5)
for product in (grouped.grouped_linear, grouped.loop_linear):
    a, w = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = product(a, w, ends)
    products.append([y, *torch.autograd.grad(y, (a, w), grad)])
report["products one by one"] = max(error(a, b) for a, b in zip(*products))

torch._dynamo.config.suppress_errors = False
tensors, order = inputs("gelu", 1, torch.float32)
run = lambda *t: fused.experts(*t, order, "gelu", fused.Kernels())
compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
both = []
for each in (run, compiled):
    y = each(*tensors)
    both.append([y, *torch.autograd.grad(y.sin().sum(), tensors)])
report["compiled"] = max(error(a, b) for a, b in zip(*both))
print(json.dumps({"float32": report, "float16": half}))
"""


@pytest.fixture(scope="module")
def interpreted() -> dict[str, dict[str, float]]:
    return _run(INTERPRETED, TRITON_INTERPRET="1")


def _run(code: str, **environment: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@needs_interpreter
@pytest.mark.slow
def test_kernels_give_the_outputs_and_gradients_of_the_reference(interpreted: dict[str, dict[str, float]]) -> None:
    """Every activation, kept and recomputed, in slices, experts without rows, gradients of gradients; nobody waits."""
    assert len(interpreted["float32"]) >= 16
    assert max(interpreted["float32"].values()) < 1e-5, interpreted["float32"]


@needs_interpreter
@pytest.mark.slow
def test_in_half_precision_kernels_stay_near_float32_of_the_same_numbers(
    interpreted: dict[str, dict[str, float]],
) -> None:
    assert max(interpreted["float16"].values()) < 1e-3, interpreted["float16"]


COMPILED = """
import json
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from mhmoe.layers import triton_kernels as kernels

NUMBERS = ("x", "up", "down", "out", "z", "act", "z_grad", "grad", "a", "b")
LISTS = {name: "*i32" for name in ("expert_of", "begin_of", "end_of", "offsets")}
OTHERS = {"gate": "*fp32", "gate_grad": "*fp32", "row": "*i64", "source": "*i64"}
TYPES = {**dict.fromkeys(NUMBERS, "*bf16"), **OTHERS, **LISTS}
CASES = [
    (kernels.up_kernel, dict(KIND="gelu", PARTS=1, BM=128)),
    (kernels.up_kernel, dict(KIND="swiglu", PARTS=2, BM=128)),
    (kernels.down_kernel, dict(KIND="none", PARTS=1, GATED_BY_WEIGHT=True, ADD=False, BM=128)),
    (kernels.down_kernel, dict(KIND="swiglu", PARTS=2, GATED_BY_WEIGHT=True, ADD=True, BM=128)),
    (kernels.gradients_kernel, dict(KIND="gelu", PARTS=1, RECOMPUTE=True, BM=128)),
    (kernels.gradients_kernel, dict(KIND="swiglu", PARTS=2, RECOMPUTE=True, BM=128)),
    (kernels.gradients_kernel, dict(KIND="gelu", PARTS=1, RECOMPUTE=False, BM=128)),
    (kernels.outer_kernel, dict(BM=128)),
]
found = []
for kernel, case in CASES:
    for config in kernel.configs:
        constants, names = {**case, **config.kwargs}, kernel.fn.arg_names
        signature = {n: "constexpr" if n in constants else TYPES.get(n, "i32") for n in names}
        divisible = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if n not in constants}
        source = ASTSource(fn=kernel.fn, signature=signature, constexprs=constants, attrs=divisible)
        options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        found.append([kernel.fn.__name__, str(config), made.metadata.shared, "wgmma" in made.asm["ptx"]])
print(json.dumps(found))
"""
SHARED_MEMORY = 232_448
"""Bytes that a block of an H100 may use (CUDA programming guide, compute capability 9.0: 227 KiB)."""


@needs_triton
@pytest.mark.slow
def test_every_choice_of_the_autotuner_compiles_for_an_h100_and_fits_its_shared_memory() -> None:
    found = _run(COMPILED, TRITON_INTERPRET="0")
    assert len(found) >= 25
    for name, config, shared, tensor_cores in found:
        assert shared <= SHARED_MEMORY and tensor_cores, (name, config, shared)


@pytest.mark.parametrize("inner", [1, 40, 64, 136, 2304, 11_904])
@pytest.mark.parametrize("column", [1, 2**18, 2**22, 2**40])
def test_slices_cover_the_inner_width_once_and_keep_to_the_bound(inner: int, column: int) -> None:
    slices = list(fused._slices(inner, column))
    assert [i for part in slices for i in range(inner)[part]] == list(range(inner))
    assert all(part.start % fused.SLICE == 0 for part in slices)
    widest = max(part.stop - part.start for part in slices)
    assert widest <= fused.SLICE or (widest - fused.SLICE) * column <= fused.LARGEST


def test_the_layer_of_equal_flops_goes_in_one_slice_forward_and_two_backward() -> None:
    """32,768 tokens of width 768, h = 4, k = 1, in bfloat16."""
    column = 2 * 32_768 * 4
    assert [len(list(fused._slices(2304, column * buffers))) for buffers in (1, 2)] == [1, 2]
