# pyright: basic, reportMissingImports=false, reportUntypedFunctionDecorator=false, reportMissingParameterType=false
# pyright: reportIndexIssue=false
"""The experts' products in Triton: gather, product, activation, gates and scatter in one pass each.

    up          inner_i = act(W_up x_row(i))                           or without act, to be kept for backward
    down        out_source(i) = g_i W_down inner_i                     plus what stood there, if asked
    gradients   from x, and the gradient y' of out: g_i act(z_i), the gradient of z_i = W_up x_row(i), and that of g_i
    outer       W'_p = sum over the rows i of expert p of a_i b_i^T

Selections i are sorted by expert. A program works on a tile of at most BM of them, all of one expert; `tiles` lists
the tiles on the device, so that the host never waits. Only as many programs as there may be tiles are started; those
beyond the last end at once. Sums are in float32, float32 products exact (no TF32). No atomics: results repeat.

Widths are cut into blocks that need not divide them; 64 divides the widths 192, 384 and 768 without waste.
Imported only where Triton is there. fused.py calls it, and has the readable reference.
"""

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from mhmoe.layers.triton_activations import slopes_of, value_of

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
SMALLEST_BN = 32
"""Of the inner width, in `gradients`: it bounds how many parts the gradient of a gate has."""


def _configs(*choices: tuple[int, int, int, int]) -> list[triton.Config]:
    """(BN, BK, warps, stages), the one that asks least of a card first; MHMOE_TUNE=0 takes that one untimed."""
    made = [triton.Config({"BN": n, "BK": k}, num_warps=warps, num_stages=stages) for n, k, warps, stages in choices]
    if INTERPRETED:
        return [triton.Config({"BN": SMALLEST_BN, "BK": 16})]
    return made[:1] if os.environ.get("MHMOE_TUNE") == "0" else made


UP = _configs((64, 32, 4, 3), (64, 64, 4, 3), (128, 32, 8, 4), (128, 64, 8, 3))
DOWN = _configs((64, 32, 4, 3), (64, 64, 4, 4), (128, 64, 8, 3), (256, 32, 8, 3))
GRADIENTS = _configs((32, 32, 4, 2), (64, 32, 8, 3), (32, 64, 4, 3), (64, 64, 8, 3))
OUTER = _configs((64, 32, 4, 3), (64, 64, 8, 3), (128, 64, 8, 3))


@triton.jit
def _tiles_kernel(offsets, expert_of, begin_of, end_of, experts, BM: tl.constexpr, PADDED: tl.constexpr):
    """Program p writes the tiles of expert p, behind those of all experts before it."""
    expert, every = tl.program_id(0), tl.arange(0, PADDED)
    ends = tl.load(offsets + every, mask=every < experts, other=0)
    begins = tl.load(offsets + every - 1, mask=(every > 0) & (every < experts), other=0)
    counts = (ends - begins + BM - 1) // BM
    place = tl.sum(tl.where(every < expert, counts, 0))
    begin = tl.sum(tl.where(every == expert, begins, 0))
    end = tl.sum(tl.where(every == expert, ends, 0))
    for at in range(begin, end, BM):
        tl.store(expert_of + place, expert)
        tl.store(begin_of + place, at)
        tl.store(end_of + place, end)
        place += 1


@triton.autotune(UP, key=["dim", "inner", "KIND", "PARTS", "BM"], cache_results=True)
@triton.jit
def up_kernel(
    x, row, up, out, expert_of, begin_of, end_of, dim, inner,
    x_row, up_expert, up_part, up_inner, out_row, out_part,
    KIND: tl.constexpr, PARTS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """KIND "none" keeps the product: both parts of it, where the activation is gated."""
    blocks = tl.cdiv(inner, BN)
    tile, n = tl.program_id(0) // blocks, tl.program_id(0) % blocks * BN + tl.arange(0, BN)
    begin, end = tl.load(begin_of + tile), tl.load(end_of + tile)
    if begin < end:
        i = begin + tl.arange(0, BM)
        rows = tl.load(row + i, mask=i < end, other=0).to(tl.int64)
        weight = up + tl.load(expert_of + tile).to(tl.int64) * up_expert
        a = tl.zeros((BM, BN), dtype=tl.float32)
        b = tl.zeros((BM, BN), dtype=tl.float32)
        for first in range(0, dim, BK):
            k = first + tl.arange(0, BK)
            left = tl.load(
                x + rows[:, None] * x_row + k[None, :], mask=(i < end)[:, None] & (k < dim)[None, :], other=0.0
            )
            at, inside = n[None, :] * up_inner + k[:, None], (n < inner)[None, :] & (k < dim)[:, None]
            a = tl.dot(left, tl.load(weight + at, mask=inside, other=0.0), a, input_precision="ieee")
            if PARTS == 2:
                b = tl.dot(left, tl.load(weight + up_part + at, mask=inside, other=0.0), b, input_precision="ieee")
        at, inside = out + i.to(tl.int64)[:, None] * out_row + n[None, :], (i < end)[:, None] & (n < inner)[None, :]
        tl.store(at, value_of(a, b, KIND).to(out.dtype.element_ty), mask=inside)
        if KIND == "none" and PARTS == 2:
            tl.store(at + out_part, b.to(out.dtype.element_ty), mask=inside)


@triton.autotune(DOWN, key=["dim", "inner", "KIND", "BM"], restore_value=["out"], cache_results=True)
@triton.jit
def down_kernel(
    z, gate, source, down, out, expert_of, begin_of, end_of, dim, inner,
    z_row, z_part, down_expert, down_dim, down_inner, out_row,
    KIND: tl.constexpr, PARTS: tl.constexpr, GATED_BY_WEIGHT: tl.constexpr, ADD: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """KIND is applied to what is read: "none" where `z` is activated already."""
    blocks = tl.cdiv(dim, BN)
    tile, n = tl.program_id(0) // blocks, tl.program_id(0) % blocks * BN + tl.arange(0, BN)
    begin, end = tl.load(begin_of + tile), tl.load(end_of + tile)
    if begin < end:
        i = begin + tl.arange(0, BM)
        weight = down + tl.load(expert_of + tile).to(tl.int64) * down_expert
        total = tl.zeros((BM, BN), dtype=tl.float32)
        for first in range(0, inner, BK):
            k = first + tl.arange(0, BK)
            at = z + i.to(tl.int64)[:, None] * z_row + k[None, :]
            inside = (i < end)[:, None] & (k < inner)[None, :]
            left = tl.load(at, mask=inside, other=0.0)
            if KIND != "none":
                other = tl.load(at + z_part, mask=inside, other=0.0) if PARTS == 2 else left
                left = value_of(left.to(tl.float32), other.to(tl.float32), KIND).to(z.dtype.element_ty)
            right = tl.load(
                weight + n[None, :] * down_dim + k[:, None] * down_inner,
                mask=(n < dim)[None, :] & (k < inner)[:, None],
                other=0.0,
            )
            total = tl.dot(left, right, total, input_precision="ieee")
        if GATED_BY_WEIGHT:
            total *= tl.load(gate + i, mask=i < end, other=0.0).to(tl.float32)[:, None]
        place = tl.load(source + i, mask=i < end, other=0).to(tl.int64)
        at, inside = out + place[:, None] * out_row + n[None, :], (i < end)[:, None] & (n < dim)[None, :]
        if ADD:
            total += tl.load(at, mask=inside, other=0.0).to(tl.float32)
        tl.store(at, total.to(out.dtype.element_ty), mask=inside)


@triton.autotune(
    GRADIENTS, key=["dim", "inner", "KIND", "RECOMPUTE", "BM"], reset_to_zero=["gate_grad"], cache_results=True
)
@triton.jit
def gradients_kernel(
    x, grad, row, gate, up, down, z, act, z_grad, gate_grad, expert_of, begin_of, end_of, dim, inner, selections,
    x_row, grad_row, up_expert, up_part, up_inner, down_expert, down_dim, z_row, z_part, act_row, zg_row, zg_part,
    KIND: tl.constexpr, PARTS: tl.constexpr, RECOMPUTE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """act: g act(z). The gradient of g is <W_down^T y', act(z)>, so that the outputs need not be kept."""
    blocks = tl.cdiv(inner, BN)
    tile, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    n, begin, end = block * BN + tl.arange(0, BN), tl.load(begin_of + tile), tl.load(end_of + tile)
    if begin < end:
        i, expert = begin + tl.arange(0, BM), tl.load(expert_of + tile).to(tl.int64)
        rows = tl.load(row + i, mask=i < end, other=0).to(tl.int64)
        a = tl.zeros((BM, BN), dtype=tl.float32)
        b = tl.zeros((BM, BN), dtype=tl.float32)
        act_grad = tl.zeros((BM, BN), dtype=tl.float32)
        for first in range(0, dim, BK):
            k = first + tl.arange(0, BK)
            inside = (i < end)[:, None] & (k < dim)[None, :]
            in_weight = (n < inner)[None, :] & (k < dim)[:, None]
            left = tl.load(grad + rows[:, None] * grad_row + k[None, :], mask=inside, other=0.0)
            right = tl.load(down + expert * down_expert + k[:, None] * down_dim + n[None, :], mask=in_weight, other=0.0)
            act_grad = tl.dot(left, right, act_grad, input_precision="ieee")
            if RECOMPUTE:
                left = tl.load(x + rows[:, None] * x_row + k[None, :], mask=inside, other=0.0)
                at = up + expert * up_expert + n[None, :] * up_inner + k[:, None]
                a = tl.dot(left, tl.load(at, mask=in_weight, other=0.0), a, input_precision="ieee")
                if PARTS == 2:
                    b = tl.dot(left, tl.load(at + up_part, mask=in_weight, other=0.0), b, input_precision="ieee")
        i_wide, inside = i.to(tl.int64), (i < end)[:, None] & (n < inner)[None, :]
        if not RECOMPUTE:
            at = z + i_wide[:, None] * z_row + n[None, :]
            a = tl.load(at, mask=inside, other=0.0).to(tl.float32)
            if PARTS == 2:
                b = tl.load(at + z_part, mask=inside, other=0.0).to(tl.float32)
        value = value_of(a, b, KIND)
        of_a, of_b = slopes_of(a, b, KIND)
        g = tl.load(gate + i, mask=i < end, other=0.0).to(tl.float32)
        tl.store(gate_grad + block.to(tl.int64) * selections + i, tl.sum(act_grad * value, axis=1), mask=i < end)
        act_grad *= g[:, None]
        at = act + i_wide[:, None] * act_row + n[None, :]
        tl.store(at, (value * g[:, None]).to(act.dtype.element_ty), mask=inside)
        at = z_grad + i_wide[:, None] * zg_row + n[None, :]
        tl.store(at, (act_grad * of_a).to(z_grad.dtype.element_ty), mask=inside)
        if PARTS == 2:
            tl.store(at + zg_part, (act_grad * of_b).to(z_grad.dtype.element_ty), mask=inside)


@triton.autotune(OUTER, key=["left", "right"], cache_results=True)
@triton.jit
def outer_kernel(
    a, b, offsets, out, left, right, a_row, b_row, out_expert, out_left,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """One program a block of one expert's matrix, all its rows; 0 where it has none."""
    down, across = tl.cdiv(left, BM), tl.cdiv(right, BN)
    expert, block = tl.program_id(0) // (down * across), tl.program_id(0) % (down * across)
    m, n = block // across * BM + tl.arange(0, BM), block % across * BN + tl.arange(0, BN)
    begin, end = tl.load(offsets + expert - 1, mask=expert > 0, other=0), tl.load(offsets + expert)
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for first in range(begin, end, BK):
        k = (first + tl.arange(0, BK)).to(tl.int64)
        first_at, second_at = a + k[None, :] * a_row + m[:, None], b + k[:, None] * b_row + n[None, :]
        of_a = tl.load(first_at, mask=(k < end)[None, :] & (m < left)[:, None], other=0.0)
        of_b = tl.load(second_at, mask=(k < end)[:, None] & (n < right)[None, :], other=0.0)
        total = tl.dot(of_a, of_b, total, input_precision="ieee")
    at = out + expert.to(tl.int64) * out_expert + m.to(tl.int64)[:, None] * out_left + n[None, :]
    tl.store(at, total.to(out.dtype.element_ty), mask=(m < left)[:, None] & (n < right)[None, :])


class Tiles:
    """Which rows, of which expert, each program works on. `most`: how many there may be."""

    def __init__(self, offsets: Tensor, selections: int) -> None:
        experts = offsets.shape[0]
        share = triton.next_power_of_2(max(selections // experts, 1))
        self.rows = min(max(share, 16), 16 if INTERPRETED else 128)
        self.most = selections // self.rows + min(experts, selections)
        self.lists = offsets.new_zeros(3, self.most)  # begin = end = 0: nothing to do
        padded = triton.next_power_of_2(experts)
        _tiles_kernel[(experts,)](offsets, *self.lists, experts, BM=self.rows, PADDED=padded)


def up(x: Tensor, row: Tensor, weight: Tensor, tiles: Tiles, kind: str, out: Tensor) -> None:
    """weight [experts, parts, inner, dim]; out [selections, parts, inner], with one part if it is activated."""
    _, parts, inner, dim = weight.shape
    up_kernel[lambda meta: (tiles.most * triton.cdiv(inner, meta["BN"]),)](
        x, row, weight, out, *tiles.lists, dim, inner,
        x.stride(0), *weight.stride()[:3], *out.stride()[:2], KIND=kind, PARTS=parts, BM=tiles.rows,
    )  # fmt: skip


def down(
    z: Tensor, gate: Tensor | None, source: Tensor, weight: Tensor, tiles: Tiles, kind: str, out: Tensor, add: bool
) -> None:
    """z [selections, parts, inner]; weight [experts, dim, inner], of any strides; out [selections, dim]."""
    _, dim, inner = weight.shape
    down_kernel[lambda meta: (tiles.most * triton.cdiv(dim, meta["BN"]),)](
        z, source if gate is None else gate, source, weight, out, *tiles.lists, dim, inner,
        *z.stride()[:2], *weight.stride(), out.stride(0),
        KIND=kind, PARTS=z.shape[1], GATED_BY_WEIGHT=gate is not None, ADD=add, BM=tiles.rows,
    )  # fmt: skip


def gradients(
    x: Tensor, grad: Tensor, row: Tensor, gate: Tensor, up: Tensor, down: Tensor, z: Tensor | None,
    tiles: Tiles, kind: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(g act(z) [selections, inner], gradient of z [selections, parts, inner], of g [selections])."""
    _, parts, inner, dim = up.shape
    act, z_grad = x.new_empty(len(row), inner), x.new_empty(len(row), parts, inner)
    gate_grad = torch.zeros(triton.cdiv(inner, SMALLEST_BN), len(row), dtype=torch.float32, device=x.device)
    kept = z_grad if z is None else z
    gradients_kernel[lambda meta: (tiles.most * triton.cdiv(inner, meta["BN"]),)](
        x, grad, row, gate, up, down, kept, act, z_grad, gate_grad, *tiles.lists, dim, inner, len(row),
        x.stride(0), grad.stride(0), *up.stride()[:3], *down.stride()[:2], *kept.stride()[:2], act.stride(0),
        *z_grad.stride()[:2], KIND=kind, PARTS=parts, RECOMPUTE=z is None, BM=tiles.rows,
    )  # fmt: skip
    return act, z_grad, gate_grad.sum(dim=0)


def outer(a: Tensor, b: Tensor, offsets: Tensor, out: Tensor) -> None:
    """a [selections, left], b [selections, right], out [experts, left, right], of any strides but the last."""
    left, right, size = a.shape[1], b.shape[1], 16 if INTERPRETED else 128
    outer_kernel[
        lambda meta: (len(offsets) * triton.cdiv(left, size) * triton.cdiv(right, meta["BN"]),)
    ](a, b, offsets, out, left, right, a.stride(0), b.stride(0), *out.stride()[:2], BM=size)  # fmt: skip
