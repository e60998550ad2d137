"""python -m benchmarks.routing_speed: what routing costs as experts grow in number; writes results/speed/routing.*.

    flat        every expert is scored: N products of width dim a row                    DotProductRouter
    two-level   the groups, then the experts of one: about 2 sqrt(N) products            GroupedRouter
    cost = a N^exponent, by least squares of log cost on log N: over all N, and over the larger half of them

Of FLOPs the exponent is that of counts; of time, that of the medians over rounds, with the middle 95% of what resampled
rounds give. That says how sure the measurement is and not how well a power fits: below some N fixed costs are most of a
call, so time grows less than FLOPs. The larger half says more of the law.

One thread, float32, top-1, no gradients. What is timed is all of routing: scores, choice, and the probabilities of all
N experts, which balance losses need and which both routers write: that part grows with N in both. About a minute.
`--render` writes the page again from the measurement that is there.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from statistics import linear_regression, median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from analysis.tables import Column, table_markdown
from benchmarks.measured_page import IN_BRACKETS, Interval, MeasuredPage, origin, over_rounds
from benchmarks.timing import in_turns
from mhmoe.cli import exit_code
from mhmoe.layers.grouped_router import GroupedRouterConfig
from mhmoe.layers.routers import DotProductRouterConfig
from mhmoe.layers.routing import RouterConfig

NUM_EXPERTS = (16, 32, 64, 128, 256, 512, 1024)
ROUTERS: dict[str, type[RouterConfig]] = {"flat": DotProductRouterConfig, "two-level": GroupedRouterConfig}


def measure(dim: int = 768, rows: int = 1024, rounds: int = 41) -> list[dict[str, Any]]:
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
    return linear_regression([math.log(x) for x, _ in points], [math.log(y) for _, y in points]).slope


def exponents(data: Mapping[str, Any], router: str, value: str, *, larger_half: bool = False) -> Interval:
    """Of "seconds", of which there is one a round, or of "flops_per_row"."""
    rows = sorted((row for row in data["rows"] if row["router"] == router), key=lambda row: row["num_experts"])
    rows = rows[len(rows) // 2 :] if larger_half else rows
    costs = np.array([row[value] if value == "seconds" else [row[value]] for row in rows])  # [numbers, rounds]

    def slope(rounds: npt.NDArray[np.int64]) -> float:
        middle = np.median(costs[:, rounds], axis=1)
        return exponent([(row["num_experts"], float(y)) for row, y in zip(rows, middle, strict=True)])

    return over_rounds(slope, costs.shape[1])


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
    fits = [
        {
            "router": router,
            "cost": what,
            "all": str(exponents(data, router, value)),
            "larger": str(exponents(data, router, value, larger_half=True)),
        }
        for router in ROUTERS
        for what, value in (("FLOPs", "flops_per_row"), ("time", "seconds"))
    ]
    middle = NUM_EXPERTS[len(NUM_EXPERTS) // 2]
    fit_columns = (
        Column("router", "router"),
        Column("cost", "cost"),
        Column("all", "exponent, all N"),
        Column("larger", f"exponent, N from {middle}"),
    )
    caption = (
        f"{origin(data)} {data['rows_per_batch']:,} rows of width {data['dim']}, float32, top-1, forward; medians of "
        f"{len(data['rows'][0]['seconds'])} rounds."
    )
    title = "What routing costs as experts grow in number"
    return (
        f"{table_markdown(columns, table, title=title, caption=[caption])}\n\n"
        f"## Cost = a N^exponent\n\n{table_markdown(fit_columns, fits)}\n\n"
        f"{IN_BRACKETS} The square root is 0.5.\n\n"
        f"{verdict(data)} Both routers also write the probabilities of all experts, which balance losses need: that "
        "part of the time grows with N.\n"
    )


def verdict(data: Mapping[str, Any]) -> str:
    """What the measured exponents say of the square root."""
    time = exponents(data, "two-level", "seconds", larger_half=True)
    flat = exponents(data, "flat", "seconds", larger_half=True)
    flops = exponents(data, "two-level", "flops_per_row")
    agrees = (
        "like it" if round(time.low, 2) <= 0.5 <= round(time.high, 2) else "faster" if time.low > 0.5 else "more slowly"
    )
    return (
        f"FLOPs of two levels grow like the square root ({flops.value:.2f}). In the larger half their time grows "
        f"{agrees}, by {time}; that of flat routing by {flat}."
    )


def _measured(quick: bool) -> dict[str, Any]:
    dim, rows = (48, 64) if quick else (768, 1024)
    return {"dim": dim, "rows_per_batch": rows, "rows": measure(dim=dim, rows=rows)}


PAGE = MeasuredPage(name="routing_speed", stem="routing", measure=_measured, markdown=markdown)

if __name__ == "__main__":
    sys.exit(exit_code(lambda: PAGE.run(sys.argv[1:])))
