"""The layer on a graphics card. `python -m benchmarks --device cuda`; without tyro `python -m benchmarks.card_speed`.

    dense, dense compiled     the FFN that MH-MoE stands in for, 4 dim wide, by torch and by torch.compile
    X-MoE, MH-MoE             v1's layers, GELU, h = 4, k = 1, by each path: torch's products alone; our kernels with
                              the inner width computed again in backward; the same with it kept; torch.compile over
                              torch's products; these in six slices of the inner width, each computed again in
                              backward; and GELU within quack's products, where it is installed (fused_products.py).
                              "recorded" is the step as a CUDA graph, as training takes it
                              (mhmoe/training/replay.py): so no kernel waits for Python
    sub-tokens                SwiGLU, k = 2: our SparseMoE by each path beside transformers' Mixtral block by grouped_mm

A step is forward and backward to the input and all weights; ours also compute their balance loss. Weights and rows are
in bfloat16. Peaks are measured: the best product of large matrices, and a copy. The share of the peak is what of the
step's arithmetic, or of the weights' traffic where that takes longer, the peak would have done in the step's time.
Memory is what a step takes at most on top of weights and input, the weights' gradients included.
"""

import argparse
import functools
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import fused_products
from benchmarks.card_table import DIM, QUICK_DIM, QUICK_ROWS, TOKENS, Peaks, Row, table
from benchmarks.contenders import Sizes, step
from benchmarks.measured_page import RESULTS
from benchmarks.peers import mixtral
from mhmoe.cli import exit_code
from mhmoe.io import UserError, write_atomically
from mhmoe.layers import card, fused
from mhmoe.layers.config import LayerConfig
from mhmoe.layers.experts import ExpertsConfig, FeedForwardConfig, use_kernels, use_slices
from mhmoe.layers.matching import match
from mhmoe.layers.routers import XMoERouterConfig
from mhmoe.layers.sparse_moe import SparseMoE, SparseMoEConfig
from mhmoe.training.record import git_state, without_place

HEADS, EXPERTS = 4, (8, 64, 256)
PATHS: dict[str, fused.Kernels | None] = {
    "torch": None,
    "kernels, recomputed": fused.Kernels(),
    "kernels, kept": fused.Kernels(recompute=False),
}
RECORDED, COMPILED, SLICED, FUSED = ", recorded", "torch.compile", "torch, in six slices", "quack"


@dataclass(frozen=True)
class Subject:
    """A layer to be timed: how it is made, its FLOPs a row of `width` numbers and its parameters."""

    layer: str
    path: str
    width: int
    flops_per_row: int
    parameters: int
    make: Callable[[], nn.Module]


def subjects(quick: bool) -> Iterator[Subject]:
    """All that is compared. `quick`: tiny sizes."""
    dim, experts = (64, (2, 4)) if quick else (DIM, EXPERTS)
    dense = FeedForwardConfig(dim=dim, inner_dim=4 * dim)
    yield _subject("dense FFN", "torch", dense, dense.build)
    yield _subject("dense FFN", COMPILED, dense, lambda: _compiled(dense.build()))
    for count in experts:
        reference = SparseMoEConfig(
            router=XMoERouterConfig(dim=dim, num_experts=count),
            experts=ExpertsConfig(dim=dim, num_experts=count, expert_dim=4 * dim),
        )
        layers: dict[str, LayerConfig] = {
            f"X-MoE, {count}": reference,
            f"MH-MoE at equal FLOPs, {count}": match("compute", reference, heads=HEADS, multiple_of=8),
        }
        if count == experts[0]:
            layers[f"MH-MoE at equal parameters, {count}"] = match("parameters", reference, heads=HEADS, multiple_of=8)
        for name, config in layers.items():
            yield from _ours(name, config)
    sizes = Sizes(dim=dim)
    for count in experts:
        config, name = sizes.sparse(count), f"SwiGLU on sub-tokens, k = 2, {count}"
        yield from _ours(name, config)
        yield _subject(name, "transformers, grouped_mm", config, lambda c=config: _mixtral(c, sizes.top_k))


def _ours(name: str, config: LayerConfig) -> Iterator[Subject]:
    """A layer of ours by every path of this machine."""

    def made(path: str) -> nn.Module:
        module = use_slices(use_kernels(config.build(), PATHS.get(path)), 6 if path == SLICED else 1)
        if path == FUSED:
            return fused_products.put_into(module)
        return _compiled(module) if path == COMPILED else module

    for path in _paths():
        if path.startswith(FUSED) and "SwiGLU" in name:
            continue  # its halves would have to lie interleaved
        yield _subject(name, path, config, functools.partial(made, path.removesuffix(RECORDED)))


def _paths() -> list[str]:
    found = list(PATHS) if card.TRITON_IS_THERE else ["torch"]
    if torch.cuda.is_available():
        found += [SLICED, COMPILED, *([FUSED] if fused_products.is_there() else [])]
        found += [f"{path}{RECORDED}" for path in found]
    return found


def _subject(layer: str, path: str, config: Any, make: Callable[[], nn.Module]) -> Subject:
    return Subject(layer, path, config.dim, config.flops_per_token(), config.parameters(), make)


def _compiled(module: nn.Module) -> nn.Module:
    module.compile()
    return module


def _mixtral(config: SparseMoEConfig, top_k: int) -> nn.Module:
    ours = config.build()
    assert isinstance(ours, SparseMoE)
    return mixtral(ours, top_k, "grouped_mm")


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Of the work itself, the card idle before and after."""
    wait(device)
    begun = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - begun


def measure(subject: Subject, device: torch.device, numbers: int, steps: int) -> Row:
    """`steps` after two in which kernels are compiled and tuned; so many `numbers` are cut into the subject's rows."""
    rows = numbers // subject.width
    row = Row(subject.layer, subject.path, 3 * rows * subject.flops_per_row, subject.parameters)
    try:
        module = subject.make().to(device, torch.bfloat16)
        x = torch.randn(1, rows, subject.width, device=device, dtype=torch.bfloat16, requires_grad=True)
        grad = torch.randn_like(x, requires_grad=False)
        for _ in range(2):
            step(module, x, grad)
        work: Callable[[], object] = functools.partial(step, module, x, grad)
        row.memory = memory_of(work, device)
        if subject.path.endswith(RECORDED):
            work = recorded(work).replay
        for _ in range(steps):
            with torch.no_grad():  # a new routing each time
                x.normal_()
            row.seconds.append(seconds_of(work, device))
    except (RuntimeError, torch.cuda.OutOfMemoryError) as error:
        row.seconds.clear()  # a path that fails at times is not measured
        row.note = "fails: " + str(error).strip().splitlines()[0][:100]
    return row


def recorded(work: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """The kernels that the work launches, which must be the same each time."""
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        work()
    return graph


def memory_of(work: Callable[[], object], device: torch.device) -> int | None:
    if device.type != "cuda":
        work()
        return None
    wait(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    wait(device)
    return torch.cuda.max_memory_allocated(device) - before


def peaks(device: torch.device, size: int, block: int) -> Peaks:
    """Best of a few."""
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    source = torch.ones(block, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    product = min(seconds_of(lambda: a @ b.t(), device) for _ in range(10))
    copy = min(seconds_of(lambda: target.copy_(source), device) for _ in range(10))
    return Peaks(2 * size**3 / product, 2 * block / copy)


def measure_card(
    device: torch.device,
    quick: bool,
    steps: int,
    only: str = "",
    done: Callable[[list[Row], Peaks], object] = lambda *_: None,
) -> tuple[list[Row], Peaks]:
    """Every subject whose layer or path has `only` in its name; `done` is told the rows so far after each."""
    best = peaks(device, *((64, 2**16) if quick else (8192, 2**30)))
    rows: list[Row] = []
    for subject in subjects(quick):
        if only in f"{subject.layer}, {subject.path}":
            torch.manual_seed(0)
            rows.append(measure(subject, device, QUICK_ROWS * QUICK_DIM if quick else TOKENS * DIM, steps))
            done(rows, best)
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return rows, best


def run(device: str, quick: bool, steps: int, output: Path | None, only: str = "") -> str:
    """Measure, write card.json and card.md into `output` after every row, and return the table. Raises UserError for
    what cannot be measured."""
    where = torch.device(device)
    if where.type == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda needs a CUDA card, and torch sees none")
    if steps < 1:
        raise UserError(f"steps={steps} is not allowed; it must be at least 1")
    count = sum(1 for _ in subjects(quick))
    if not any(only in f"{subject.layer}, {subject.path}" for subject in subjects(quick)):
        raise UserError(f"only={only!r} is in no layer's or path's name; leave it out to see {count} of them")
    if quick and output is not None and output.resolve() == RESULTS.resolve():
        raise UserError("a quick run would replace the committed measurement; name another output folder")
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU, which says nothing about a card"
    command = shlex.join(["python", *map(without_place, sys.orig_argv[1:])])
    kernels = "" if card.TRITON_IS_THERE else "; without kernels, which need Triton and MHMOE_TRITON=1"
    source = f"{name}; torch {torch.__version__}; commit {git_state()['commit'][:12]}; `{command}`{kernels}"

    def write(rows: list[Row], best: Peaks) -> None:
        print(f"{rows[-1].layer} | {rows[-1].path}: {rows[-1].note or rows[-1].seconds[-1]}", file=sys.stderr)
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            write_atomically(output / "card.md", table(rows, best, source, count, quick))
            data = {"source": source, "quick": quick, "peaks": asdict(best), "rows": [asdict(row) for row in rows]}
            write_atomically(output / "card.json", json.dumps(data, indent=1) + "\n")

    return table(*measure_card(where, quick, steps, only, write), source, quick=quick)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--only", default="", help="layers or paths with this in their name")
    parser.add_argument("--output", type=Path, default=None, help="a folder for card.json and card.md")
    arguments = vars(parser.parse_args())
    return exit_code(lambda: print(run(**arguments)))


if __name__ == "__main__":
    sys.exit(main())
