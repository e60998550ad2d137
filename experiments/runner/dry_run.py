"""What a command would run, and what it would cost. Nothing is trained."""

from collections.abc import Sequence

from analysis.tables import Column, Row, table_markdown
from experiments.runner.gpus import GPUS, GPUs, needs
from experiments.runner.outlook import alike, seconds_of, tokens_of
from experiments.runner.runs import Run, model_config
from experiments.runner.store import Records
from mhmoe.training.record import Record

COLUMNS = (
    Column("name", "run"),
    Column("state", "state"),
    Column("parameters", "parameters (M)", ",.2f", 1e-6),
    Column("active", "active (M)", ",.2f", 1e-6),
    Column("flops", "MFLOPs a token", ",.2f", 1e-6),
    Column("tokens", "tokens (M)", ",.2f", 1e-6),
    Column("training_flops", "training (PFLOPs)", ",.3f", 1e-15),
    Column("seconds", "seconds", ",.0f"),
    Column("memory", "peak memory (GB)", ",.1f", 1e-9),
)
GPU_COLUMNS = (
    Column("gpus", "GPUs"),
    Column("system", "system"),
    Column("parameters", "parameters (M)", ",.0f", 1e-6),
    Column("precision", "products in"),
    Column("states", "parameters, gradients, moments (GB)", ",.1f", 2**-30),
    Column("weights", "weights for backward (GB)", ",.1f", 2**-30),
    Column("kept", "kept for backward (GB)", ",.1f", 2**-30),
    Column("whole", "a GPU, copies (GB)", ",.1f", 2**-30),
    Column("sharded", "a GPU, sharded (GB)", ",.1f", 2**-30),
    Column("memory", "it has (GB)"),
    Column("rate", "tokens/s (k)", ",.0f", 1e-3),
    Column("days", "days", ",.1f"),
)


def cost_table(runs: Sequence[Run], records: Records, elsewhere: Sequence[Record] = ()) -> str:
    """A table of the runs.

    Seconds and memory are those of a finished run of the same system on such a device, here or else `elsewhere`;
    without one, memory is the weights with their gradients and both Adam moments, and seconds are unknown.
    """
    finished = [*records.by_name.values(), *elsewhere]
    rows = [_row(run, f"waits for {run.waits_for}" if run.waits_for else records.state(run), finished) for run in runs]
    missing = [row for row in rows if row["state"] != "done"]
    known = [row["seconds"] for row in missing if row["seconds"] is not None]
    total = sum(row["training_flops"] for row in missing) / 1e15
    estimate = (
        f"about {sum(known) / 3600:.1f} hours one after the other" if len(known) == len(missing) else "time unknown"
    )
    caption = f"{len(missing)} of {len(rows)} runs are not done; {total:,.2f} PFLOPs; {estimate}."
    return table_markdown(COLUMNS, rows, caption=[caption])


def _row(run: Run, state: str, finished: Sequence[Record]) -> Row:
    model = model_config(run.scale, run.system)
    tokens = tokens_of(run)
    flops = model.flops_per_token(run.scale.training["length"])
    known = alike(run, finished)
    return {
        "name": run.name + ("" if run.learning_rate is None else f" (rate {run.learning_rate:g})"),
        "state": state,
        "parameters": model.parameters(),
        "active": model.active_parameters(),
        "flops": flops,
        "tokens": tokens,
        "training_flops": 3 * flops * tokens,
        "seconds": seconds_of(run, finished),
        "memory": 16 * model.parameters() if known is None else known.peak_memory_bytes,
    }


def gpu_table(runs: Sequence[Run], machines: Sequence[GPUs]) -> str:
    """What one run of each system needs on GPUs: arithmetic of gpus.py, nothing measured."""
    rows: list[Row] = []
    for gpus in machines:
        for run in {run.system.name: run for run in runs if run.tests}.values():
            model, training = model_config(run.scale, run.system), run.system.at(run.scale).training
            found = needs(model, training, gpus)
            rows.append(
                {
                    "gpus": str(gpus),
                    "system": run.system.label,
                    "parameters": model.parameters(),
                    "precision": gpus.precision(training.get("precision", "float32")),
                    "states": found.states,
                    "weights": found.weights,
                    "kept": found.kept,
                    "whole": found.whole,
                    "sharded": found.sharded,
                    "memory": GPUS[gpus.kind].memory,
                    "rate": found.tokens_per_second,
                    "days": tokens_of(run) / found.tokens_per_second / 86_400,
                }
            )
    shares = ", ".join(sorted({f"{gpus.share:.1%}" for gpus in machines}))
    return table_markdown(GPU_COLUMNS, rows, caption=[f"Assumed: {shares} of the peak of the GPU's products."])
