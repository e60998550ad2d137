"""Records of declared runs that never were, as the runs would have written them."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from experiments.runs import model_config, run_config
from experiments.schema import Run
from mhmoe.records import Record, fingerprint, summarise_documents
from tests import fake_records


def forged(run: Run, nll: float = 4.5, **more: Any) -> Record:
    """The record that `run` would write, with a perplexity of one's choosing; `more` as in fake_records."""
    record = fake_records.record(run.system.name, run.seed, nll, scale=run.scale.name, documents=6, **more)
    names = [f"english/{name}-{split}" for name in ("wikipedia", "books") for split in ("train", "valid", "test")]
    data = {
        "corpus": {"kind": "local", "order_seed": 0, "files": {f"{name}.jsonl.gz": "0" for name in names}},
        "packing": dataclasses.asdict(run.scale.packing),
    }
    config, model = run_config(run, data), model_config(run.scale, run.system)
    return dataclasses.replace(
        record,
        name=run.name,
        config=config,
        fingerprint=fingerprint(config, run.seed),
        parameters=model.parameters(),
        active_parameters=model.active_parameters(),
        metrics=record.metrics if run.tests else {"valid": record.metrics["valid"]},
    )


def worsened(record: Record, factor: float) -> Record:
    """The same record with `factor` times the nll in every document, its summary following from them."""
    metrics: dict[str, dict[str, Any]] = {}
    for split, evaluation in record.metrics.items():
        documents = [{**document, "nll": factor * document["nll"]} for document in evaluation["documents"]]
        metrics[split] = summarise_documents(documents) | {"documents": documents}
    assert math.isclose(metrics["valid"]["nll_per_token"], factor * record.metrics["valid"]["nll_per_token"])
    return dataclasses.replace(record, metrics=metrics)


def save(record: Record, results: Path) -> Path:
    """Where the scale's records are looked for."""
    path = results / "runs" / record.scale / f"{record.name}.json"
    record.save(path)
    return path
