"""Measured data into Markdown and the figure. Everything is a function of the data: nothing is typed."""

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from analysis import figures
from analysis.figures import Point
from analysis.render import NOT_RUN, Column, table_markdown
from benchmarks.verdicts import TO_DENSE, seconds, summary, verdicts
from mhmoe.records import write_atomically

Data = Mapping[str, Any]
LABELS = {
    "dense": "dense FFN",
    "dense_onednn": "dense FFN, oneDNN products",
    "mhmoe": "MH-MoE",
    "mhmoe_loop": "MH-MoE, readable loop",
    "sparse": "our SparseMoE, on sub-tokens",
    "mixtral_grouped_mm": "Mixtral block, grouped_mm",
    "mixtral_eager": "Mixtral block, eager",
}
PLURAL = {1: "1 thread", 2: "2 threads"}
_WHERE = (
    Column("threads", "threads"),
    Column("precision", "precision"),
    Column("num_experts", "experts"),
)
VERDICT_COLUMNS = (
    Column("ours_label", "ours"),
    Column("other_label", "to"),
    *_WHERE,
    Column("value", "ratio", ".3f"),
    Column("bound", "bound", "g"),
    Column("n", "n"),
    Column("verdict", "verdict"),
)
LAYER_COLUMNS = (
    Column("num_experts", "experts"),
    Column("label", "contender"),
    Column("median", "median ms", ",.1f", 1e3),
    Column("low", "lowest", ",.1f", 1e3),
    Column("high", "highest", ",.1f", 1e3),
    Column("n", "n"),
    Column("to_dense", "time per FLOP, to dense", ".2f"),
    Column("to_onednn", "to dense, oneDNN", ".2f"),
    Column("flops", "GFLOP", ",.1f", 1e-9),
    Column("weight_traffic_bytes", "weight traffic MB", ",.0f", 1e-6),
    Column("least_seconds", "at least ms", ",.1f", 1e3),
    Column("reached", "reached", ".0%"),
    Column("memory_bytes", "memory on top MB", ",.0f", 1e-6),
)
TRAINING_COLUMNS = (
    Column("label", "system"),
    Column("mode", "mode"),
    Column("tokens_per_second", "tokens/s", ",.0f"),
    Column("to_dense", "to dense, eager", ".2f"),
    Column("to_eager", "to itself, eager", ".2f"),
    Column("median", "median ms a step", ",.1f", 1e3),
    Column("low", "lowest", ",.1f", 1e3),
    Column("high", "highest", ",.1f", 1e3),
    Column("n", "n"),
    Column("parameters", "parameters (M)", ",.2f", 1e-6),
    Column("flops_per_token", "MFLOPs a token", ",.2f", 1e-6),
    Column("memory_bytes", "memory on top MB", ",.0f", 1e-6),
    Column("compile_seconds", "compiling s", ",.0f"),
)


def write_layer(data: Data, folder: Path) -> str:
    """layer.json, .md and .png; returns the Markdown."""
    write_atomically(folder / "layer.json", json.dumps(data, indent=1) + "\n")
    text = layer_markdown(data)
    write_atomically(folder / "layer.md", text)
    layer_figure(data, folder / "layer.png")
    return text


def write_training(data: Data, folder: Path) -> str:
    """training.json and .md; returns the Markdown."""
    write_atomically(folder / "training.json", json.dumps(data, indent=1) + "\n")
    text = training_markdown(data)
    write_atomically(folder / "training.md", text)
    return text


def origin(data: Data) -> list[str]:
    """Machine, versions, commit and date of a measurement."""
    source = data["provenance"]
    versions = ", ".join(f"{name} {version}" for name, version in source["versions"].items())
    dirty = " with local changes" if source["dirty"] else ""
    quick = ["QUICK RUN of tiny sizes: it shows that the benchmark works and nothing else."]
    return [
        *(quick if data["quick"] else []),
        f"{source['device']}, {data['cores']} cores; {versions}; commit {source['commit'][:12]}{dirty}; "
        f"{source['started']}; `{source['command']}`.",
    ]


def layer_markdown(data: Data) -> str:
    """Bounds first, then every measurement with its roofline."""
    sizes = data["sizes"]
    width = sizes["dim"] // sizes["heads"]
    dense = "; ".join(
        f"{d['inner_dim']} at {d['num_experts']} experts (FLOPs {d['flops_residual']:+.2%})"
        for d in sizes["dense"]
    )
    found = verdicts(data)
    caption = [
        *origin(data),
        f"Forward and backward of one layer: dim {sizes['dim']}, SwiGLU, {sizes['tokens']:,} tokens. MH-MoE: "
        f"h = {sizes['heads']}, k = {sizes['top_k']}, sub-tokens of {width} numbers, inner width "
        f"{sizes['expert_dim']} (`compute`). Dense FFN of as many FLOPs (router, head and merge layers counted), "
        f"to the nearest multiple of 8: inner width {dense}. SparseMoE and Mixtral's block: "
        f"{sizes['tokens'] * sizes['heads']:,} rows of width {width}, the same experts, router weights and top-k.",
        f"Each setting ran in a process of its own; contenders in turns, up to {data['repetitions']} rounds after "
        "a warm-up, new random input and so a new routing in each. A step is forward, backward to the input and to "
        "all weights, and the release of the gradients. Our layers also compute their balance loss, the others have "
        "none. bfloat16: weights and activations, without autocast. Large pages for all "
        "(THP_MEM_ALLOC_ENABLE=1). Values are medians of n rounds.",
        summary(found),
    ]
    labelled = [
        row | {"ours_label": LABELS[row["ours"]], "other_label": LABELS[row["other"]]} for row in found
    ]
    parts = [table_markdown(VERDICT_COLUMNS, labelled, title="Speed of the layer", caption=caption)]
    parts.append(
        "![time per FLOP, relative to the dense FFN](layer.png)\n\n"
        "Time per FLOP is time where the FLOPs are equal; SparseMoE and Mixtral's block lack head and merge layers "
        "and so have fewer. The dense FFN takes torch's own products, as people build it; our experts take oneDNN's "
        "in float32, and the dense FFN by those stands beside it. At least: the larger of FLOPs / peak and weight "
        "traffic (weights read in forward and in backward, gradients written) / bandwidth, with the faster of the "
        "two products as peak; reached is that time over the median. Memory on top: by how much the process grew "
        "during a step, gradients included, weights not.\n"
    )
    for threads, precision in settings_of(data):
        parts.append(f"## {precision}, {PLURAL.get(threads, f'{threads} threads')}\n")
        parts.append(_machine_line(data, threads, precision))
        parts.append(table_markdown(LAYER_COLUMNS, layer_rows(data, threads, precision)))
    return "\n".join(parts)


def settings_of(data: Data) -> list[tuple[int, str]]:
    """(threads, precision) of the rows, float32 and few threads first."""
    found = {(row["threads"], row["precision"]) for row in data["rows"]}
    return sorted(found, key=lambda setting: (setting[1] != "float32", setting[0]))


def layer_rows(data: Data, threads: int, precision: str) -> list[dict[str, Any]]:
    """Rows of LAYER_COLUMNS for one setting."""
    rows = [row for row in data["rows"] if (row["threads"], row["precision"]) == (threads, precision)]
    shown: list[dict[str, Any]] = []
    for row in rows:
        label = LABELS[row["contender"]]
        if not row["seconds"]:
            shown.append(row | {"label": f"{label} ({row['note'] or NOT_RUN})", "least_seconds": None})
            continue
        shown.append(
            row
            | _spread(row["seconds"])
            | {
                "label": label,
                "to_dense": to_dense(data, row),
                "to_onednn": to_dense(data, row, "dense_onednn"),
                "reached": row["least_seconds"] / median(row["seconds"]),
            }
        )
    return shown


def to_dense(data: Data, row: Data, reference: str = "dense") -> float | None:
    """Time per FLOP of a row over that of a dense FFN in the same setting; None if that was not run."""
    base = seconds(data, reference, row["threads"], row["precision"], row["num_experts"])
    if not base:
        return None
    flops = next(
        r["flops"]
        for r in data["rows"]
        if r["contender"] == reference and r["num_experts"] == row["num_experts"]
    )
    return (median(row["seconds"]) / row["flops"]) / (median(base) / flops)


def _machine_line(data: Data, threads: int, precision: str) -> str:
    machine = next(
        r["machine"] for r in data["rows"] if (r["threads"], r["precision"]) == (threads, precision)
    )
    return (
        f"Measured peaks: torch.mm {machine['mm'] * 1e-9:,.0f} GFLOP/s, oneDNN's product "
        f"{machine['onednn'] * 1e-9:,.0f} GFLOP/s, copy {machine['bandwidth'] * 1e-9:,.1f} GB/s.\n"
    )


def _spread(times: list[float]) -> dict[str, Any]:
    return {"median": median(times), "low": min(times), "high": max(times), "n": len(times)}


def layer_figure(data: Data, path: Path) -> None:
    """Time per FLOP, relative to the dense FFN, against the number of experts; a panel a setting."""
    settings = settings_of(data)
    names = [name for name in LABELS if name != "dense" and any(r["contender"] == name for r in data["rows"])]
    styles = figures._styles(names)
    columns = max(len({precision for _, precision in settings}), 1)
    lines = -(-len(settings) // columns)
    by_thread = sorted(settings, key=lambda setting: (setting[0], setting[1] != "float32"))
    experts = sorted({row["num_experts"] for row in data["rows"]})
    with rc_context(figures._STYLE):
        figure = Figure(figsize=(6.4 * columns, 1.6 + 4.4 * lines), layout="constrained")
        panels = np.atleast_1d(figure.subplots(lines, columns, sharex=True, sharey=True)).flatten()
        drawn: list[float] = []
        for axes, (threads, precision) in zip(panels, by_thread, strict=False):
            axes.set_title(f"{precision}, {PLURAL.get(threads, f'{threads} threads')}", loc="left")
            axes.set_xscale("log")
            axes.set_yscale("log")
            figures._reference(axes, 1.0, "dense FFN", figures._GREY)
            for name in names:
                line = _line(data, name, threads, precision)
                drawn += [height for p in line for height in (p.low, p.high)]
                if line:
                    figures._draw(axes, line, styles[name], LABELS[name], band=False)
            if precision == "float32" and not data["quick"]:
                axes.plot(
                    TO_DENSE.keys(), TO_DENSE.values(), "_", color="black", markersize=26, label="MH-MoE's bound"
                )  # fmt: skip
            figures._ticks(axes.xaxis, experts)
            axes.set_xlabel("experts")
        if drawn:
            figures._log_range(panels[0], min(*drawn, 1.0), max(*drawn, *TO_DENSE.values()))
        for axes in panels[::columns]:
            axes.set_ylabel("time per FLOP / dense FFN's (log)")
        panels[0].legend()
        n = sorted({len(row["seconds"]) for row in data["rows"] if row["seconds"]})
        rounds = "-".join(map(str, dict.fromkeys((n[0], n[-1])))) if n else "0"
        note = f"{data['provenance']['device']}. Medians of n = {rounds} rounds; bars: lowest to highest."
        figures._finish(figure, "Forward and backward of the layer", note)
        figures._save(figure, path)


def _line(data: Data, name: str, threads: int, precision: str) -> list[Point]:
    points: list[Point] = []
    for row in data["rows"]:
        if (row["contender"], row["threads"], row["precision"]) != (name, threads, precision):
            continue
        if row["seconds"] and (ratio := to_dense(data, row)) is not None:
            times = np.array(row["seconds"]) / median(row["seconds"]) * ratio
            points.append(Point(row["num_experts"], ratio, times.min(), times.max(), len(times)))
    return points


def training_markdown(data: Data) -> str:
    """Tokens per second of every system."""
    found = data["measured"]
    eager = {row["system"]: _rate(found, row) for row in found["rows"] if not row["compiled"]}
    rows: list[dict[str, Any]] = []
    for row in found["rows"]:
        mode = "torch.compile" if row["compiled"] else "eager"
        if not row["seconds"]:
            rows.append(row | {"mode": mode, "tokens_per_second": row.get("note") or NOT_RUN})
            continue
        rate = _rate(found, row)
        shown = {"mode": mode, "tokens_per_second": rate, "to_dense": rate / eager["dense"]}
        if row["compiled"]:
            shown["to_eager"] = rate / eager[row["system"]]
        rows.append(row | _spread(row["seconds"]) | shown)
    caption = [
        *origin(data),
        f"The systems of Table 1 at scale {found['scale']}: training steps of {found['tokens_per_step']:,} "
        f"generated tokens in {found['precision']}, {PLURAL.get(found['threads'], found['threads'])}: forward, "
        "backward, clipping and the optimiser's step. The systems take their steps in turns; tokens/s are those of "
        "the median of n steps after a warm-up. MFLOPs are of the forward pass.",
    ]
    return table_markdown(TRAINING_COLUMNS, rows, title="Speed of training", caption=caption)


def _rate(found: Data, row: Data) -> float:
    return found["tokens_per_step"] / median(row["seconds"])
