"""The layer benchmark. `python -m benchmarks.layer_speed SETTINGS` measures one setting and prints JSON.

A setting is a number of threads and a precision, in a process of its own; all numbers of experts and all
contenders are measured in it. bfloat16 means weights and activations in bfloat16, for all contenders:
under autocast, transformers' grouped_mm would compute in float32.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from benchmarks.contenders import Batch, Contender, Sizes, contenders
from benchmarks.roofline import Machine, measure, weight_traffic
from benchmarks.timing import Timing, count_threads, in_own_process, in_turns

# The dear setting last: it gets the time that the others leave.
SETTINGS = ((2, "bfloat16"), (1, "bfloat16"), (2, "float32"), (1, "float32"))
QUICK_SETTINGS = ((1, "bfloat16"), (1, "float32"))
QUICK_SIZES = Sizes(dim=192, tokens=64, num_experts=(2, 4))


def measure_layers(quick: bool, rounds: int, deadline: float) -> list[dict[str, Any]]:
    """One dict for every threads, precision, number of experts and contender, the fastest settings first."""
    settings = QUICK_SETTINGS if quick else SETTINGS
    rows: list[dict[str, Any]] = []
    for i, (threads, precision) in enumerate(settings):
        share = max(deadline - time.monotonic(), 0) / (len(settings) - i)
        setting = {"quick": quick, "precision": precision, "rounds": rounds, "seconds": share}
        rows += in_own_process("benchmarks.layer_speed", setting, threads)["rows"]
    return rows


def measure_setting(quick: bool, precision: str, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """The rows of this process's threads and one precision, in about so many seconds."""
    end = time.monotonic() + seconds
    sizes, dtype = QUICK_SIZES if quick else Sizes(), getattr(torch, precision)
    torch.manual_seed(0)
    machine = measure(dtype, size=128, block=2**20) if quick else measure(dtype)
    rows: list[dict[str, Any]] = []
    for i, num_experts in enumerate(sizes.num_experts):
        deadline = time.monotonic() + (end - time.monotonic()) / (len(sizes.num_experts) - i)
        label = f"{count_threads(torch.get_num_threads())}, {precision}, {num_experts} experts"
        found = measure_contenders(sizes, num_experts, dtype, machine, rounds, deadline, label)
        shared = {"threads": torch.get_num_threads(), "precision": precision, "num_experts": num_experts}
        rows += [shared | row for row in found]
    return rows


def measure_contenders(
    sizes: Sizes,
    num_experts: int,
    dtype: torch.dtype,
    machine: Machine,
    rounds: int,
    deadline: float,
    label: str,
) -> list[dict[str, Any]]:
    batch = Batch(sizes, dtype)
    found: Sequence[Contender] = contenders(sizes, num_experts, dtype)
    steps = {c.name: (lambda c=c: c.step(batch)) for c in found if c.module is not None}
    timings = in_turns(steps, batch.draw, rounds=rounds, deadline=deadline, label=label)
    rows: list[dict[str, Any]] = []
    for contender in found:
        traffic = weight_traffic(contender.parameters, dtype.itemsize)
        row: dict[str, Any] = {
            "contender": contender.name,
            "flops": contender.flops,
            "parameters": contender.parameters,
            "weight_traffic_bytes": traffic,
            "machine": machine.to_dict(),
        }
        rows.append(row | timings.get(contender.name, Timing()).to_dict() | {"note": contender.note})
    return rows


def sizes_dict(quick: bool) -> dict[str, Any]:
    """What was compared: sizes, and the dense FFN's solved width with its residual in FLOPs."""
    sizes = QUICK_SIZES if quick else Sizes()
    dense = {n: sizes.dense(n) for n in sizes.num_experts}
    return {
        "dim": sizes.dim,
        "heads": sizes.heads,
        "top_k": sizes.top_k,
        "tokens": sizes.tokens,
        "expert_dim": sizes.expert_dim,
        "dense": [
            {
                "num_experts": n,
                "inner_dim": config.inner_dim,
                "flops_residual": config.flops_per_token() / sizes.layer(n).flops_per_token() - 1,
            }
            for n, config in dense.items()
        ],
    }


def main(settings: Mapping[str, Any]) -> None:
    print(json.dumps({"rows": measure_setting(**settings)}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
