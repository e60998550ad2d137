"""Measured data into Markdown. Everything is a function of the data: nothing is typed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from analysis.tables import NOT_RUN, Column, table_markdown
from benchmarks.contenders import DENSE_MULTIPLE
from benchmarks.figure import LABELS, layer_figure
from benchmarks.measured_page import QUICK_RUN
from benchmarks.roofline import least_seconds
from benchmarks.timing import SLOW_STEP, count_threads
from benchmarks.verdicts import settings_of, summary, time_per_flop, verdicts
from mhmoe.io import write_atomically

Data = Mapping[str, Any]
VERDICT_COLUMNS = (
    Column("ours_label", "ours"),
    Column("other_label", "to"),
    Column("threads", "threads"),
    Column("precision", "precision"),
    Column("num_experts", "experts"),
    Column("value", "ratio", ".3f"),
    Column("bound", "bound", "g"),
    Column("n", "n"),
    Column("verdict", "verdict"),
    Column("to_onednn", "to dense FFN, oneDNN", ".3f"),
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
    Column("held_bytes", "memory MB", ",.0f", 1e-6),
    Column("compile_seconds", "compiling s", ",.0f"),
)
ZERO_SHOT_COLUMNS = (
    Column("task", "task"),
    Column("n", "n", ","),
    Column("measure", "measure"),
    Column("ours", "ours %", ".4f", 100),
    Column("lm_eval", "lm-eval %", ".4f", 100),
    Column("equal", "the same number"),
)


def write(name: str, data: Data, folder: Path) -> str:
    """The benchmark's .json and .md, and the layer's .png; returns the Markdown."""
    write_atomically(folder / f"{name}.json", json.dumps(data, indent=1) + "\n")
    text = MARKDOWN[name](data)
    write_atomically(folder / f"{name}.md", text)
    if name == "layer":
        layer_figure(data, folder / "layer.png")
    return text


def origin(data: Data) -> list[str]:
    """Machine, versions, commit and date of a measurement."""
    source = data["provenance"]
    versions = ", ".join(f"{name} {version}" for name, version in source["versions"].items())
    dirty = " with local changes" if source["dirty"] else ""
    return [
        *([QUICK_RUN] if data["quick"] else []),
        f"{source['device']}, {data['cores']} cores; {versions}; commit {source['commit'][:12]}{dirty}; "
        f"{source['started']}; `{source['command']}`.",
    ]


def layer_markdown(data: Data) -> str:
    """Bounds first, then every measurement with its roofline."""
    sizes = data["sizes"]
    width = sizes["dim"] // sizes["heads"]
    dense = "; ".join(
        f"{d['inner_dim']} at {d['num_experts']} experts (FLOPs {d['flops_residual']:+.2%})" for d in sizes["dense"]
    )
    found = verdicts(data)
    rows = f"{sizes['tokens'] * sizes['heads']:,} rows of width {width}"
    caption = [
        *origin(data),
        f"Forward and backward of one layer: dim {sizes['dim']}, SwiGLU, {sizes['tokens']:,} tokens. MH-MoE: "
        f"h = {sizes['heads']}, k = {sizes['top_k']}, sub-tokens of {width} numbers, inner width "
        f"{sizes['expert_dim']} (`compute`). Dense FFN of as many FLOPs (router, head and merge layers "
        f"counted), to the nearest multiple of {DENSE_MULTIPLE}: inner width {dense}. SparseMoE and "
        f"Mixtral's block: {rows}, the same experts, router weights and top-k.",
        f"Each setting ran in a process of its own; contenders in turns, up to {data['repetitions']} rounds "
        "after a warm-up, new random input and so a new routing in each. A step is forward, backward to the "
        "input and to all weights, and the release of the gradients. Our layers also compute their balance "
        "loss, the others have none. bfloat16: weights and activations, without autocast. Large pages for "
        "all (THP_MEM_ALLOC_ENABLE=1), and after the warm-up freed memory stays with the process. "
        f"Values are medians of n rounds; a step of more than {SLOW_STEP:g} s "
        "is timed once.",
        summary(found),
    ]
    labelled = [row | {"ours_label": LABELS[row["ours"]], "other_label": LABELS[row["other"]]} for row in found]
    parts = [table_markdown(VERDICT_COLUMNS, labelled, title="Speed of the layer", caption=caption)]
    parts.append(
        "![time per FLOP, relative to the dense FFN](layer.png)\n\n"
        "Time per FLOP is time where the FLOPs are equal; SparseMoE and Mixtral's block lack head and merge "
        "layers and so have fewer. The dense FFN takes torch's own products, as people build it; our experts "
        "take oneDNN's in float32, and the dense FFN by those stands beside it. At least: the larger of "
        "FLOPs / peak and weight traffic (weights read in forward and in backward, gradients written) / "
        "bandwidth, with the faster of the two products as peak, or the quickest step of any row where that was faster "
        "still; reached is that time over the median. "
        "Memory on top: by how much the process grew during a step, gradients included, weights not.\n"
    )
    for threads, precision in settings_of(data):
        parts.append(f"## {precision}, {count_threads(threads)}\n")
        parts.append(_machine_line(data, threads, precision))
        parts.append(table_markdown(LAYER_COLUMNS, layer_rows(data, threads, precision)))
    return "\n".join(parts)


def layer_rows(data: Data, threads: int, precision: str) -> list[dict[str, Any]]:
    """Rows of LAYER_COLUMNS for one setting."""
    rows = _rows_of(data, threads, precision)
    peak, bandwidth = _peak(rows), rows[0]["machine"]["bandwidth"]
    shown: list[dict[str, Any]] = []
    for row in rows:
        label = LABELS[row["contender"]]
        if not row["seconds"]:
            shown.append(row | {"label": f"{label} ({row['note'] or NOT_RUN})"})
            continue
        least = least_seconds(row["flops"], row["weight_traffic_bytes"], peak, bandwidth)
        shown.append(
            row
            | _spread(row["seconds"])
            | {
                "label": label,
                "to_dense": time_per_flop(data, row),
                "to_onednn": time_per_flop(data, row, "dense_onednn"),
                "least_seconds": least,
                "reached": least / median(row["seconds"]),
            }
        )
    return shown


def _rows_of(data: Data, threads: int, precision: str) -> list[dict[str, Any]]:
    return [row for row in data["rows"] if (row["threads"], row["precision"]) == (threads, precision)]


def _peak(rows: Sequence[Data]) -> float:
    """FLOP/s: of the products that were timed alone, or of a step that was quicker, as on a machine that was busy."""
    alone = max(rows[0]["machine"]["mm"], rows[0]["machine"]["onednn"])
    return max(alone, *(row["flops"] / min(row["seconds"]) for row in rows if row["seconds"]))


def _machine_line(data: Data, threads: int, precision: str) -> str:
    rows = _rows_of(data, threads, precision)
    machine, peak = rows[0]["machine"], _peak(rows)
    above = f", a step {peak * 1e-9:,.0f} GFLOP/s" if peak > max(machine["mm"], machine["onednn"]) else ""
    return (
        f"Measured peaks: torch.mm {machine['mm'] * 1e-9:,.0f} GFLOP/s, oneDNN's product "
        f"{machine['onednn'] * 1e-9:,.0f} GFLOP/s{above}, copy {machine['bandwidth'] * 1e-9:,.1f} GB/s.\n"
    )


def _spread(times: list[float]) -> dict[str, Any]:
    return {"median": median(times), "low": min(times), "high": max(times), "n": len(times)}


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
        f"The systems of Tables 1 and 5 and of Figure 6 at scale {found['scale']}: training steps of "
        f"{found['tokens_per_step']:,} generated tokens in {found['precision']}, {count_threads(found['threads'])}: "
        "forward, backward, clipping and the optimiser's step. The systems take their steps in turns; tokens/s are "
        "those of the median of n steps after a warm-up. MFLOPs are of the forward pass. Memory: weights and the "
        "optimiser's two moments, and by how much the process grew during a step.",
    ]
    return table_markdown(TRAINING_COLUMNS, rows, title="Speed of training", caption=caption)


def zero_shot_markdown(data: Data) -> str:
    """Every accuracy of lm-eval's command and of ours, whether they are the same number, and what both took."""
    found = data["measured"]
    apart = [abs(row["ours"] - row["lm_eval"]) for row in found["rows"]]
    rows = [row | {"equal": f"NO, by {by:.0e}" if by else "yes"} for row, by in zip(found["rows"], apart, strict=True)]
    seconds, uneven = found["seconds"], {row["task"] for row, by in zip(found["rows"], apart, strict=True) if by}
    rounding = "; mc2 is a mean of probabilities, which a sum in another order rounds otherwise"
    limit = "" if found["limit"] is None else f" The first {found['limit']} items of each task alone."
    caption = [
        *origin(data),
        f"{found['checkpoint']}, {count_threads(found['threads'])}, {found['max_length']} tokens of context for both, "
        f"more than the model was trained with: lm-eval needs room for the longest answer.{limit}",
        f"{apart.count(0)} of {len(rows)} accuracies are the same number"
        f"{rounding if uneven == {'truthfulqa_mc2'} else ''}.",
        f"Ours took {seconds['ours']:,.0f} s and lm-eval's own command, with its default of one request at a time, "
        f"{seconds['lm_eval']:,.0f} s: {seconds['lm_eval'] / seconds['ours']:.1f} times as long. One run of each.",
    ]
    return table_markdown(ZERO_SHOT_COLUMNS, rows, title="Zero-shot scores beside lm-eval's command", caption=caption)


def _rate(found: Data, row: Data) -> float:
    return found["tokens_per_step"] / median(row["seconds"])


MARKDOWN = {"layer": layer_markdown, "training": training_markdown, "zero_shot": zero_shot_markdown}
