"""What a record says, held against itself, field by field.

Sizes, counts and names must be what the record's own config gives, the curve must have the points that its training
config asks for, the documents must add up to the splits of its text, and the summaries must follow from the documents.
Every function raises ValueError, naming the field, in one line.
"""

import functools
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from mhmoe.fields import Count, Range, check_value
from mhmoe.model.config import MHMoEConfig
from mhmoe.training.config import TrainingConfig

NotNegative = Annotated[float, Range(least=0)]
_FIELDS: dict[str, Any] = {
    "name": str,
    "fingerprint": str,
    "scale": str,
    "task": str,
    "system": str,
    "seed": Annotated[int, Range(least=0, below=2**32)],
    "config": dict,
    "provenance": dict,
    "steps": Count,
    "tokens": Count,
    "wall_seconds": Annotated[float, Range(above=0)],
    "peak_memory_bytes": Count,
    "parameters": Count,
    "active_parameters": Count,
    "flops_per_token": Count,
    "metrics": dict,
    "curve": list,
    "schema_version": int,
}
_PROVENANCE: dict[str, Any] = {
    "command": str,
    "commit": str,
    "dirty": bool,
    "versions": dict,
    "device": str,
    "threads": Count,
    "started": str,
}
_DOCUMENT: dict[str, Any] = {"id": str, "nll": NotNegative, "tokens": Count, "bytes": Count}
_POINT: dict[str, Any] = {
    "step": Count,
    "tokens": Count,
    "seconds": NotNegative,
    "task_loss": NotNegative,
    "balance_loss": NotNegative,
    "valid_nll": NotNegative,
    "valid_bits_per_byte": NotNegative,
}
_SPLIT: dict[str, Any] = {"tokens": Count, "sha256": str}
_EVALUATED: dict[str, Any] = {**_SPLIT, "documents": Count, "bytes": Count}


def check_types(raw: Mapping[str, Any]) -> None:
    """The fields' own types and ranges, of a record with the right keys."""
    _check_values("", raw, _FIELDS)


def check_record(raw: Mapping[str, Any]) -> None:
    """All that must follow from something else, of a record whose fields are of the right types."""
    _check_values("provenance.", raw["provenance"], _PROVENANCE)
    config = _part(raw, "config", "model", "training", "data")
    training = _training_config(config["training"])
    sizes = _sizes(json.dumps(config["model"], sort_keys=True), training.length)
    run = f"{raw['task']}-{raw['system']}"
    names = [f"{run}-seed{raw['seed']}", f"{run}-lr{training.learning_rate:g}-seed{raw['seed']}"]
    if raw["name"] not in names:
        raise ValueError(f"name={raw['name']!r} is not that of its task, system and seed ({' or '.join(names)})")
    expected = {
        "steps": training.steps,
        "tokens": training.steps * training.tokens_per_step,
        **sizes,
    }
    for name, value in expected.items():
        if raw[name] != value:
            raise ValueError(f"{name}={raw[name]} is not what its config gives ({value})")
    _check_curve(raw["curve"], training, raw["wall_seconds"])
    data = _part(config, "data", "corpus", "packing", "dtype", "tokenizer_sha256", "splits")
    splits = _part(data, "splits", "train", "valid", "test")
    _check_values("config.data.splits.train.", splits["train"], _SPLIT)
    if not raw["metrics"]:
        raise ValueError("metrics is empty; a record has at least one evaluation")
    if not {"valid"} <= raw["metrics"].keys() <= {"valid", "test"}:
        raise ValueError(f"metrics is of {sorted(raw['metrics'])}; it must be of valid, or of valid and test")
    for split, evaluation in raw["metrics"].items():
        _check_values(f"config.data.splits.{split}.", splits[split], _EVALUATED)
        _check_evaluation(f"metrics.{split}", evaluation)
        counts = {**evaluation, "documents": len(evaluation["documents"])}
        for name in ("documents", "tokens", "bytes"):
            if counts[name] != splits[split][name]:
                raise ValueError(
                    f"metrics.{split} has {counts[name]} {name}, its text ({splits[split][name]}): the split was not "
                    "evaluated whole"
                )


def _training_config(raw: Any) -> TrainingConfig:
    """The config that `TrainingConfig.to_dict` wrote."""
    try:
        fields: dict[str, Any] = {name: _as_tuples(value) for name, value in raw.items()}
        return TrainingConfig(**fields)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"config.training: {error}") from None


def _as_tuples(value: Any) -> Any:
    """Lists, as JSON has them, as what they were."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


@functools.lru_cache(maxsize=256)  # seeds and learning rates share a model, and counting takes its time
def _sizes(raw: str, length: int) -> dict[str, int]:
    """What a model's config, as JSON, counts for sequences of this length."""
    try:
        model = MHMoEConfig(**json.loads(raw))
    except Exception as error:  # transformers has classes of its own for what a config does not take
        reason = " ".join(str(error).split())
        raise ValueError(f"config.model is not one of this version's: {reason}") from None
    if length > model.max_position_embeddings:
        raise ValueError(
            f"config.training.length={length} exceeds config.model.max_position_embeddings="
            f"{model.max_position_embeddings}"
        )
    return {
        "parameters": model.parameters(),
        "active_parameters": model.active_parameters(),
        "flops_per_token": model.flops_per_token(length),
    }


def _part(raw: Mapping[str, Any], name: str, *keys: str) -> Mapping[str, Any]:
    part = raw[name]
    if not isinstance(part, Mapping) or not set(keys) <= part.keys():
        raise ValueError(f"{name} must have {', '.join(keys)}")
    return part


def _check_values(where: str, raw: Any, declared: Mapping[str, Any]) -> None:
    if not isinstance(raw, Mapping):
        raise ValueError(f"{where.rstrip('.')} is a {type(raw).__name__}; it must have {', '.join(declared)}")
    for name, kind in declared.items():
        if name not in raw:
            raise ValueError(f"{where}{name} is missing")
        check_value(f"{where}{name}", raw[name], kind)


def _check_rows(where: str, rows: Sequence[Any], declared: Mapping[str, Any]) -> None:
    """The same for many rows of text, counts and numbers that are not negative: only a wrong one is looked at
    closely."""
    for i, row in enumerate(rows):
        if type(row) is not dict or not all(_is_plainly(row.get(name), kind) for name, kind in declared.items()):
            _check_values(f"{where}.{i}.", row, declared)


def _is_plainly(value: Any, kind: Any) -> bool:
    if kind is str:
        return type(value) is str
    if kind is Count:
        return type(value) is int and value >= 1
    return (type(value) is int or type(value) is float) and 0 <= value < math.inf


def _check_curve(curve: Sequence[Any], training: TrainingConfig, seconds: float) -> None:
    _check_rows("curve", curve, _POINT)
    steps = [done for done in range(1, training.steps + 1) if training.evaluates_after(done)]
    if [point["step"] for point in curve] != steps:
        raise ValueError(
            f"curve has {len(curve)} points, not one after each of the {len(steps)} steps {steps[0]} to {steps[-1]} "
            "at which its config evaluates"
        )
    for point in curve:
        if point["tokens"] != point["step"] * training.tokens_per_step:
            raise ValueError(f"curve has {point['tokens']} tokens after step {point['step']}, which its config denies")
    times = [point["seconds"] for point in curve]
    if any(a > b for a, b in itertools.pairwise([*times, round(seconds, 3)])):
        raise ValueError("curve has seconds that do not rise to wall_seconds")


def _check_evaluation(where: str, evaluation: Any) -> None:
    """The summary figures must follow from the documents they summarise."""
    documents = evaluation.get("documents") if isinstance(evaluation, Mapping) else None
    if not isinstance(documents, list) or not documents:
        raise ValueError(f"{where} has no documents")
    _check_rows(f"{where}.documents", documents, _DOCUMENT)
    if len({document["id"] for document in documents}) < len(documents):
        raise ValueError(f"{where} has two documents of one id")
    for name, value in summarise_documents(documents).items():
        given = evaluation.get(name)
        if (
            not isinstance(given, int | float)
            or isinstance(given, bool)
            or not math.isclose(given, value, rel_tol=1e-6)
        ):
            raise ValueError(f"{where}.{name}={given} does not follow from its documents ({value})")


def summarise_documents(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Perplexity per token and bits per byte from each document's summed nll (nats), tokens and bytes."""
    nll, tokens, size = (sum(d[name] for d in documents) for name in ("nll", "tokens", "bytes"))
    return {
        "perplexity": math.exp(min(nll / tokens, 700.0)),  # exp overflows a float beyond 709
        "nll_per_token": nll / tokens,
        "bits_per_byte": nll / math.log(2) / size,
        "tokens": tokens,
        "bytes": size,
    }
