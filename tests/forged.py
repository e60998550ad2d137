"""Records of declared runs that never were, as the runs would have written them."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.runner.runs import Run, model_config, run_config, training_config
from mhmoe.training.config import TrainingConfig
from mhmoe.training.record import Record, fingerprint
from mhmoe.training.record_checks import Document, Evaluation, Point, summarise_documents
from tests import fake_records


def forged(run: Run, nll: float = 4.5, *, curve: Sequence[float] = (6.0, 5.0, 4.6), **more: Any) -> Record:
    """The record that `run` would write, with a perplexity of one's choosing; `more` as in fake_records."""
    record = fake_records.record(run.system.name, run.seed, nll, scale=run.scale.name, documents=6, **more)
    names = [f"english/{name}-{split}" for name in ("wikipedia", "books") for split in ("train", "valid", "test")]
    corpus = {"kind": "local", "order_seed": 0, "files": {f"{name}.jsonl.gz": "0" for name in names}}
    metrics = record.metrics if run.tests else {"valid": record.metrics["valid"]}
    return of_text(record, run, corpus, metrics, curve)


def of_text(
    record: Record, run: Run, corpus: dict[str, Any], metrics: dict[str, Any], curve: Sequence[float] = (6.0, 5.0)
) -> Record:
    """The record with all that follows from the run, the text and these metrics of it."""
    data = text_fingerprint(metrics, corpus, dataclasses.asdict(run.scale.packing))
    config, model, training = run_config(run, data), model_config(run.scale, run.system), training_config(run)
    return dataclasses.replace(
        record,
        name=run.name,
        task=run.task,
        config=config,
        fingerprint=fingerprint(config, run.seed),
        steps=training.steps,
        tokens=training.steps * training.tokens_per_step,
        parameters=model.parameters(),
        active_parameters=model.active_parameters(),
        flops_per_token=model.flops_per_token(training.length),
        metrics=metrics,
        curve=curve_points(training, curve, record.wall_seconds),
    )


def text_fingerprint(
    metrics: Mapping[str, Evaluation], corpus: Mapping[str, Any], packing: Mapping[str, Any]
) -> dict[str, Any]:
    """Of a packed text whose documents are those of an evaluation."""
    splits = {
        split: {"documents": len(found["documents"]), "sha256": "0", **{n: found[n] for n in ("tokens", "bytes")}}
        for split, found in {"test": metrics["valid"], **metrics}.items()
    }
    return {
        "corpus": dict(corpus),
        "packing": dict(packing),
        "dtype": "<u2",
        "tokenizer_sha256": "0",
        "splits": {"train": {"tokens": fake_records.TOKENS, "sha256": "0"}, **splits},
    }


def curve_points(training: TrainingConfig, curve: Sequence[float], seconds: float) -> list[Point]:
    """A point wherever the config evaluates; its loss is that of `curve`, spread evenly from the first to the last."""
    steps = [done for done in range(1, training.steps + 1) if training.evaluates_after(done)]
    losses = np.interp(np.linspace(0, 1, len(steps)), np.linspace(0, 1, len(curve)), curve)
    if len(steps) == 1:
        losses = curve[-1:]
    return [
        {
            "step": step,
            "tokens": step * training.tokens_per_step,
            "seconds": round(seconds * step / training.steps, 3),
            "task_loss": float(loss),
            "balance_loss": 1.0,
            "valid_nll": float(loss),
            "valid_bits_per_byte": float(loss) / 4,
        }
        for step, loss in zip(steps, losses, strict=True)
    ]


def worsened(record: Record, factor: float) -> Record:
    """The same record with `factor` times the nll in every document, its summary following from them."""
    metrics: dict[str, Evaluation] = {}
    for split, evaluation in record.metrics.items():
        documents: list[Document] = [{**row, "nll": factor * row["nll"]} for row in evaluation["documents"]]
        metrics[split] = {**summarise_documents(documents), "documents": documents}
    assert math.isclose(metrics["valid"]["nll_per_token"], factor * record.metrics["valid"]["nll_per_token"])
    return dataclasses.replace(record, metrics=metrics)


def save(record: Record, results: Path) -> Path:
    """Where the scale's records are looked for."""
    path = results / "runs" / record.scale / f"{record.name}.json"
    record.save(path)
    return path
