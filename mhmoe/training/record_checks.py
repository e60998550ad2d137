"""What a record says, by types, and held against itself, field by field.

Sizes, counts and names must be what the record's own config gives, the curve must have the points that its training
config asks for, the documents must add up to the splits of its text, and the summaries must follow from the documents.
Every function raises ValueError, naming the field, in one line.
"""

import functools
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypedDict

from mhmoe.fields import Count, Range
from mhmoe.from_json import from_json
from mhmoe.model.config import MHMoEConfig
from mhmoe.training.config import TrainingConfig

NotNegative = Annotated[float, Range(least=0)]


class GitState(TypedDict):
    """Of the code that ran: its commit, and whether files differed from it."""

    commit: str
    dirty: bool


class Provenance(GitState):
    """Where a run came from."""

    command: str
    versions: dict[str, str]
    device: str
    threads: Count
    started: str


class Document(TypedDict):
    """nll: summed over its tokens, in nats."""

    id: str
    nll: NotNegative
    tokens: Count
    bytes: Count


class Summary(TypedDict):
    """Of some documents together."""

    perplexity: NotNegative
    nll_per_token: NotNegative
    bits_per_byte: NotNegative
    tokens: Count
    bytes: Count


class Evaluation(Summary):
    """Of a split, with the documents that it follows from."""

    documents: list[Document]


class TrainedPoint(TypedDict):
    """Of a learning curve, before it is evaluated."""

    step: Count
    tokens: Count
    seconds: NotNegative
    task_loss: NotNegative
    balance_loss: NotNegative


class Point(TrainedPoint):
    """Of a learning curve."""

    valid_nll: NotNegative
    valid_bits_per_byte: NotNegative


class Split(TypedDict):
    """Of a packed text."""

    tokens: Count
    sha256: str


class EvaluatedSplit(Split):
    """One that is read document by document."""

    documents: Count
    bytes: Count


class Splits(TypedDict):
    train: Split
    valid: EvaluatedSplit
    test: EvaluatedSplit


class Text(TypedDict):
    """A packed text."""

    corpus: dict[str, Any]
    packing: dict[str, Any]
    dtype: str
    tokenizer_sha256: str
    splits: Splits


class RunConfig(TypedDict):
    """What determines a run's numbers, but its seed."""

    model: dict[str, Any]
    training: dict[str, Any]
    data: Text


def check_record(raw: Mapping[str, Any]) -> None:
    """All that must follow from something else, of a record whose fields are of the right types."""
    config = from_json(RunConfig, raw["config"], "config")
    training = _training_config(config["training"])
    sizes = _sizes(json.dumps(config["model"], sort_keys=True), training.length)
    run = f"{raw['task']}-{raw['system']}"
    names = [f"{run}-seed{raw['seed']}", f"{run}-lr{training.learning_rate:g}-seed{raw['seed']}"]
    if raw["name"] not in names:
        raise ValueError(f"name={raw['name']!r} is not that of its task, system and seed ({' or '.join(names)})")
    expected = {"steps": training.steps, "tokens": training.steps * training.tokens_per_step, **sizes}
    for name, value in expected.items():
        if raw[name] != value:
            raise ValueError(f"{name}={raw[name]} is not what its config gives ({value})")
    _check_curve(raw["curve"], training, raw["wall_seconds"])
    if not raw["metrics"]:
        raise ValueError("metrics is empty; a record has at least one evaluation")
    if not {"valid"} <= raw["metrics"].keys() <= {"valid", "test"}:
        raise ValueError(f"metrics is of {sorted(raw['metrics'])}; it must be of valid, or of valid and test")
    for split, evaluation in raw["metrics"].items():
        _check_evaluation(f"metrics.{split}", evaluation)
        counts = {**evaluation, "documents": len(evaluation["documents"])}
        for name in ("documents", "tokens", "bytes"):
            if counts[name] != (whole := config["data"]["splits"][split][name]):
                raise ValueError(
                    f"metrics.{split} has {counts[name]} {name}, its text ({whole}): the split was not evaluated whole"
                )


def _training_config(raw: Any) -> TrainingConfig:
    """The config that `TrainingConfig.to_dict` wrote."""
    try:
        fields: dict[str, Any] = {name: _as_tuples(value) for name, value in raw.items()}
        return TrainingConfig.from_dict(fields)
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


def _check_curve(curve: Sequence[Point], training: TrainingConfig, seconds: float) -> None:
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


def _check_evaluation(where: str, evaluation: Evaluation) -> None:
    """The summary figures must follow from the documents they summarise."""
    documents = evaluation["documents"]
    if not documents:
        raise ValueError(f"{where} has no documents")
    if len({document["id"] for document in documents}) < len(documents):
        raise ValueError(f"{where} has two documents of one id")
    summary = summarise_documents(documents)
    for name in ("perplexity", "nll_per_token", "bits_per_byte", "tokens", "bytes"):
        value = summary[name]
        if not math.isclose(evaluation[name], value, rel_tol=1e-6):
            raise ValueError(f"{where}.{name}={evaluation[name]} does not follow from its documents ({value})")


def summarise_documents(documents: Sequence[Document]) -> Summary:
    """Perplexity per token and bits per byte from each document's summed nll (nats), tokens and bytes (0: unknown)."""
    nll = sum(document["nll"] for document in documents)
    tokens, size = (sum(document[name] for document in documents) for name in ("tokens", "bytes"))
    return {
        "perplexity": math.exp(min(nll / tokens, 700.0)),  # exp overflows a float beyond 709
        "nll_per_token": nll / tokens,
        "bits_per_byte": nll / math.log(2) / size if size else math.nan,
        "tokens": tokens,
        "bytes": size,
    }
