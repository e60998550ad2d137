"""A scale at which all of Table 1 takes seconds, its text, and records of runs that never were."""

import dataclasses
import gzip
import json
import math
from pathlib import Path
from typing import Any

from experiments.recipes import CPU
from experiments.runs import model_config, run_config
from experiments.schema import Run, Scale
from mhmoe.packing import PackingConfig
from mhmoe.records import Record, fingerprint, sha256_of, summarise_documents
from tests import fake_records
from tests.tiny import ZipfText

MINI = dataclasses.replace(
    CPU,
    name="mini",
    purpose="tests",
    model={
        "vocab_size": 300,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
    },
    packing=PackingConfig(
        vocab_size=300,
        max_train_tokens=5000,
        tokenizer_characters=20_000,
        max_valid_tokens=400,
        max_test_tokens=400,
    ),
    training={"steps": 2, "batch_sequences": 4, "length": 16, "evaluations": 2, "evaluation_windows": 8},
    learning_rates=(0.01, 0.02),
    tuning_share=1 / 2,
    seeds=(1,),
)


def write_corpus(folder: Path) -> None:
    """A folder of generated text that `LocalCorpus` reads."""
    listing: list[dict[str, str]] = []
    for name in ("wikipedia", "books"):
        for split in ("train", "valid", "test"):
            path = folder / "english" / f"{name}-{split}.jsonl.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            texts = [document.text for document in ZipfText(20).documents(f"{name}-{split}")]
            lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
            path.write_bytes(gzip.compress(lines.encode(), mtime=0))
            listing.append({"file": str(path.relative_to(folder)), "sha256": sha256_of(path)})
    (folder / "manifest.json").write_text(json.dumps({"files": listing}))


def forged(run: Run, nll: float = 4.5, **more: Any) -> Record:
    """The record that `run` would write, with a perplexity of one's choosing; `more` as in fake_records."""
    record = fake_records.record(run.system.name, run.seed, nll, scale=run.scale.name, documents=6, **more)
    names = [
        f"english/{name}-{split}" for name in ("wikipedia", "books") for split in ("train", "valid", "test")
    ]
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


def at_rate(scale: Scale, rate: float) -> Scale:
    """The scale with this one learning rate, so that nothing needs tuning."""
    return dataclasses.replace(scale, learning_rates=(rate,))
