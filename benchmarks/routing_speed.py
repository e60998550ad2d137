"""python -m benchmarks.routing_speed: what routing costs as experts grow in number; writes results/speed/routing.*.

    flat        every expert is scored: N products of width dim a row                    DotProductRouter
    two-level   the groups, then the experts of one: about 2 sqrt(N) products            GroupedRouter
    time = a N^exponent, by least squares of log time on log N: over all N, and over the larger half of them

One thread, float32, top-1, no gradients. What is timed is all of routing: scores, choice, and the probabilities of all
N experts, which balance losses need and which both routers write: that part grows with N in both. About 20 seconds.
"""

import json
import math
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from analysis.tables import Column, table_markdown
from benchmarks.timing import ROOT, cpu_model, in_turns
from mhmoe.io import write_atomically
from mhmoe.layers.grouped_router import GroupedRouterConfig
from mhmoe.layers.routers import DotProductRouterConfig
from mhmoe.layers.routing import RouterConfig
from mhmoe.training.record import provenance

NUM_EXPERTS = (16, 32, 64, 128, 256, 512, 1024)
ROUTERS: dict[str, type[RouterConfig]] = {"flat": DotProductRouterConfig, "two-level": GroupedRouterConfig}
RESULTS = ROOT / "results" / "speed"


def measure(dim: int = 768, rows: int = 1024, rounds: int = 15) -> list[dict[str, Any]]:
    """A dict for each router and number of experts: FLOPs a row and the seconds of every timed forward."""
    torch.set_num_threads(1)
    steps, flops = dict[str, Callable[[], object]](), dict[str, int]()
    batch = [torch.empty(rows, dim)]

    def draw() -> None:
        batch[0] = torch.randn(rows, dim)

    for name, kind in ROUTERS.items():
        for num_experts in NUM_EXPERTS:
            config = kind(dim=dim, num_experts=num_experts)
            key = f"{name} {num_experts}"
            router = config.build()

            def step(router: torch.nn.Module = router) -> None:
                with torch.no_grad():
                    router(batch[0])

            steps[key], flops[key] = step, config.flops_per_token()
    found = in_turns(steps, draw, rounds=rounds, warm_up=2, label="routing")
    return [
        {
            "router": key.split()[0],
            "num_experts": int(key.split()[1]),
            "flops_per_row": flops[key],
            "seconds": timing.to_dict()["seconds"],
        }
        for key, timing in found.items()
    ]


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """Slope of log y on log x by least squares."""
    xs, ys = [math.log(x) for x, _ in points], [math.log(y) for _, y in points]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    covariance = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return covariance / sum((x - mean_x) ** 2 for x in xs)


def exponents(data: Mapping[str, Any], router: str, value: str) -> tuple[float, float]:
    """Of "seconds" (their medians) or "flops_per_row": over all numbers of experts, and over the larger half."""
    points = [
        (row["num_experts"], median(row[value]) if value == "seconds" else row[value])
        for row in data["rows"]
        if row["router"] == router
    ]
    return exponent(points), exponent(sorted(points)[len(points) // 2 :])


def markdown(data: Mapping[str, Any]) -> str:
    """The page: a row a number of experts, and the fitted exponents."""
    table: list[dict[str, Any]] = []
    for num_experts in NUM_EXPERTS:
        row: dict[str, Any] = {"num_experts": num_experts}
        for found in data["rows"]:
            if found["num_experts"] == num_experts:
                name = found["router"]
                row |= {name: median(found["seconds"]) * 1e3, f"{name} flops": found["flops_per_row"]}
        table.append(row | {"ratio": row["flat"] / row["two-level"]})
    columns = (
        Column("num_experts", "experts"),
        Column("flat flops", "flat, FLOPs a row", ","),
        Column("two-level flops", "two-level, FLOPs a row", ","),
        Column("flat", "flat, ms", ".3f"),
        Column("two-level", "two-level, ms", ".3f"),
        Column("ratio", "flat / two-level", ".2f"),
    )
    lines = [
        f"- {router}: {what} with exponent {whole:.2f} over all, {upper:.2f} from the middle up."
        for router in ROUTERS
        for what, value in (("FLOPs grow", "flops_per_row"), ("time grows", "seconds"))
        for whole, upper in [exponents(data, router, value)]
    ]
    source = data["provenance"]
    return "\n".join(
        [
            "# What routing costs as experts grow in number",
            "",
            f"{data['cpu']}, 1 thread; torch {source['versions']['torch']}; commit {source['commit'][:12]}; "
            f"`{source['command']}`. {data['rows_per_batch']:,} rows of width {data['dim']}, float32, top-1, forward; "
            f"medians of {len(data['rows'][0]['seconds'])} rounds.",
            "",
            table_markdown(columns, table),
            "",
            *lines,
            "",
            "Both routers also write the probabilities of all experts, which balance losses need: that part of the "
            "time grows with N.",
            "",
        ]
    )


def write(data: Mapping[str, Any], folder: Path) -> str:
    page = markdown(data)
    write_atomically(folder / "routing.json", json.dumps(data, indent=1) + "\n")
    write_atomically(folder / "routing.md", page)
    return page


def main() -> None:
    sizes = {"dim": 768, "rows": 1024}
    command = shlex.join(["python", "-m", "benchmarks.routing_speed", *sys.argv[1:]])
    data = {
        "schema_version": 1,
        "cpu": cpu_model(),
        "provenance": provenance(command, cpu_model(), 1),
        "dim": sizes["dim"],
        "rows_per_batch": sizes["rows"],
        "rows": measure(**sizes),
    }
    print(write(data, RESULTS))


if __name__ == "__main__":
    main()
