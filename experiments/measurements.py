"""What is measured on finished models, apart from their training.

A `Measurement` is data, as an experiment is: a name, the settings that determine its values, and the function
of analysis/ that does it. Results are records of their own, results/measurements/<scale>/<name>/<run>.json,
current as long as run and settings are those that are declared.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.answers import FINER
from analysis.checkpoints import load
from analysis.expert_activation import measure_activation, measure_groups
from analysis.harness import questions
from analysis.known_senses import measure_known_senses
from analysis.routed_text import load_checkpoint, untrained, windows_of, windows_of_texts
from analysis.sub_tokens import texts_of
from analysis.word_senses import measure_senses
from analysis.zero_shot_tasks import find, stock_file
from experiments.generated_folder import CONTEXTS, FALSE_FRIENDS, LEXICON
from experiments.manifest import write_listed
from experiments.runs import RESULTS
from experiments.schema import Scale
from mhmoe.data_folder import DATA_VARIABLE, LOCAL, DataFolder
from mhmoe.generated import GeneratedCorpus
from mhmoe.packing import PackedText
from mhmoe.records import Record, UserError, fingerprint

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a measurement may look at: the model's folder and the seed it started from, the packed text, and the
    folder of all data, where it reads files of that."""

    model: Path
    seed: int
    text: PackedText
    folder: DataFolder | None

    @property
    def data(self) -> DataFolder:
        assert self.folder is not None  # whoever calls a measurement that reads files gives it
        return self.folder


def folder_of_data(given: Path | None, scale: Scale, cache: Path) -> Path | None:
    """The folder that `--data` names, unless it holds packed text alone; else MHMOE_DATA; else what stands in for them
    at the scale, written into `cache`; None if nothing does."""
    if given is not None and not (given / "pack.json").exists():
        return given
    if named := os.environ.get(DATA_VARIABLE):
        return Path(named)
    return None if scale.stand_in is None else scale.stand_in.at(cache / "generated")


def _of_tasks_read(settings: Mapping[str, Any]) -> list[str]:
    """Also sees that the tasks are known to lm-eval, and lm-eval is there."""
    tasks = find(settings["tasks"])
    for task in tasks:
        stock_file(task)
    return list(dict.fromkeys(task.file for task in tasks))


def _of_words(settings: Mapping[str, Any]) -> list[str]:
    return [settings[name] for name in ("lexicon", "false_friends", "contexts")]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """name: its folder. settings: all that determines its values but the model and its text; smoke: what is
    different there at the smoke scale. measure: gives the values, as JSON. files: what it reads of the folder of all
    data with these settings, None if the packed text is enough; raises UserError where a package for it is missing.
    within: a zero-shot measurement of more tasks."""

    name: str
    settings: Mapping[str, Any]
    measure: Callable[[Subject, Mapping[str, Any]], dict[str, Any]]
    smoke: Mapping[str, Any] = field(default_factory=dict[str, Any])
    files: Callable[[Mapping[str, Any]], Sequence[str]] | None = None
    within: str = ""

    def settings_at(self, scale: str) -> dict[str, Any]:
        return {**self.settings, **(self.smoke if scale == "smoke" else {})}

    def files_at(self, scale: str) -> Sequence[str]:
        """Raises UserError where a package for reading them is missing."""
        return () if self.files is None else self.files(self.settings_at(scale))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A measurement of one run's model. `run` and `run_fingerprint` say of which."""

    measurement: str
    run: str
    run_fingerprint: str
    scale: str
    task: str
    system: str
    seed: int
    settings: dict[str, Any]
    fingerprint: str
    provenance: dict[str, Any]
    values: dict[str, Any]
    schema_version: int = SCHEMA_VERSION


def mark(measurement: Measurement, run: Record) -> str:
    """The fingerprint that a current measurement of this run has."""
    identity = {"measurement": measurement.name, "settings": measurement.settings_at(run.scale), "run": run.fingerprint}
    return fingerprint(identity, run.seed)


def path_of(measurement: Measurement, run: Record, results: Path = RESULTS) -> Path:
    return results / "measurements" / run.scale / measurement.name / f"{run.name}.json"


def measured(measurement: Measurement, run: Record, results: Path = RESULTS) -> Measured | None:
    """The current measurement of a run, if there is one; or what a wider one found of the same.

    Raises UserError if a file is damaged.
    """
    found = _read(measurement, run, results)
    if found is None and measurement.within:
        other = MEASUREMENTS[measurement.within]
        wider = _read(other, run, results) if _but_tasks(other, run) == _but_tasks(measurement, run) else None
        return wider and dataclasses.replace(wider, values=_of_tasks(wider.values, measurement.settings["tasks"]))
    return found


def _but_tasks(measurement: Measurement, run: Record) -> dict[str, Any]:
    return {**measurement.settings_at(run.scale), "tasks": None}


def _read(measurement: Measurement, run: Record, results: Path) -> Measured | None:
    path = path_of(measurement, run, results)
    if not path.is_file():
        return None
    found = read_measured(path)
    return found if found.fingerprint == mark(measurement, run) else None


def read_measured(path: Path) -> Measured:
    """Raises UserError if the file is damaged."""
    try:
        raw = json.loads(path.read_bytes())
        fields = {field.name for field in dataclasses.fields(Measured)}
        if raw["schema_version"] != SCHEMA_VERSION or raw.keys() != fields:
            raise ValueError(f"fields or schema_version are not those of version {SCHEMA_VERSION}")
        return Measured(**raw)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"measurement {path} is damaged ({error}); remove it and measure again") from None


def data_of(values: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Of a measurement's values: the kind of data that it read beside the text, and the files with their sha256."""
    data = dict(values.get("data", {}))
    kind = data.pop("kind", LOCAL)
    tasks = data.get("tasks")
    return kind, data if tasks is None else {t["file"]: t["sha256"] for t in tasks.values() if "file" in t}


def is_measured(measurement: Measurement, run: Record, folder: DataFolder | None, results: Path = RESULTS) -> bool:
    """Whether there is a current measurement of a run, and none of its files differs in the folder that is given.

    Raises UserError if a file is damaged.
    """
    found = measured(measurement, run, results)
    given = {} if folder is None else folder.sha256
    return found is not None and all(given.get(file, mark) == mark for file, mark in data_of(found.values)[1].items())


def save(
    measurement: Measurement, run: Record, values: dict[str, Any], provenance: dict[str, Any], results: Path = RESULTS
) -> None:
    record = Measured(
        measurement=measurement.name,
        run=run.name,
        run_fingerprint=run.fingerprint,
        scale=run.scale,
        task=run.task,
        system=run.system,
        seed=run.seed,
        settings=measurement.settings_at(run.scale),
        fingerprint=mark(measurement, run),
        provenance=provenance,
        values=values,
    )
    text = json.dumps(dataclasses.asdict(record), separators=(",", ":")) + "\n"
    write_listed(path_of(measurement, run, results), text, results / "measurements" / run.scale)


# ---- the measurements -----------------------------------------------------------------------


def _activation(subject: Subject, settings: Mapping[str, Any]) -> dict[str, Any]:
    model, _ = load_checkpoint(subject.model)
    if model.config.moe is None:
        return {}
    split = getattr(subject.text, settings["split"])
    windows = windows_of(split, model.config.max_position_embeddings).spaced(settings["max_windows"])
    return measure_activation(model, windows)


def _zero_shot(subject: Subject, settings: Mapping[str, Any]) -> dict[str, Any]:
    from analysis.zero_shot import evaluate  # slow to import, with transformers' and torch's side of it

    model, tokenizer = load(str(subject.model), device="cpu")
    return evaluate(model, tokenizer, settings["tasks"], subject.data.path, limit=settings["limit"])


def _of_tasks(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """What scoring these tasks alone would have given, but for its costs."""
    return {
        "tasks": {name: values["tasks"][name] for name in names},
        "data": {**values["data"], "tasks": {name: values["data"]["tasks"][name] for name in names}},
        "settings": values["settings"],
    }


def _question_routing(subject: Subject, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of the trained model and of the one that it started from, by task."""
    model, tokenizer = load_checkpoint(subject.model)
    if model.config.moe is None:
        return {}
    tasks = {task.folder: task for task in find(settings["tasks"])}  # the same questions once
    texts, source = questions([*tasks.values()], subject.data.path, settings["items"])
    groups = [name for name, several in zip(tasks, texts.values(), strict=True) for _ in several]
    length = model.config.max_position_embeddings
    windows = windows_of_texts([text for several in texts.values() for text in several], tokenizer, length)
    models = {"trained": model, "untrained": untrained(model, subject.seed)}
    return {"data": source, **{name: measure_groups(of, windows, groups) for name, of in models.items()}}


def _word_senses(subject: Subject, settings: Mapping[str, Any]) -> dict[str, Any]:
    model, tokenizer = load_checkpoint(subject.model)
    if model.config.moe is None:
        return {}
    files = {name: settings[name] for name in ("lexicon", "false_friends", "contexts")}
    folder = subject.data
    source = {"kind": folder.kind} | {file: folder.hash_of(file) for file in files.values()}
    measured = measure_senses(
        model,
        tokenizer,
        texts_of(getattr(subject.text, settings["split"]), tokenizer),
        seed=subject.seed,
        **{name: folder.path / file for name, file in files.items()},
        **{name: settings[name] for name in ("language", "many", "rule", "min_count", "max_words")},
    )
    return {"data": source, **measured}


def _known_senses(subject: Subject, settings: Mapping[str, Any]) -> dict[str, Any]:
    model, tokenizer = load_checkpoint(subject.model)
    if model.config.moe is None:
        return {}
    corpus = GeneratedCorpus.of_fingerprint(subject.text.fingerprint["corpus"])
    return measure_known_senses(model, tokenizer, corpus, seed=subject.seed, **settings)


MEASUREMENTS = {
    measurement.name: measurement
    for measurement in (
        Measurement(
            name="expert_activation",  # how often each expert is chosen on the test text; nothing for dense models
            settings={"split": "test", "max_windows": 1024},
            measure=_activation,
        ),
        Measurement(
            name="zero_shot_english",  # the tasks of v1 Table 2, all items
            settings={"tasks": ["english"], "limit": None, "finer": FINER},
            smoke={"limit": 20},
            measure=_zero_shot,
            files=_of_tasks_read,
        ),
        Measurement(
            name="zero_shot_mlp_layers",  # those of v1 Table 7
            settings={"tasks": ["rte", "piqa", "winogrande"], "limit": None, "finer": FINER},
            smoke={"limit": 20},
            measure=_zero_shot,
            files=_of_tasks_read,
            within="zero_shot_english",
        ),
        Measurement(
            name="zero_shot_hellaswag",  # one of these tasks alone, where many models are compared
            settings={"tasks": ["hellaswag"], "limit": None, "finer": FINER},
            smoke={"limit": 20},
            measure=_zero_shot,
            files=_of_tasks_read,
            within="zero_shot_english",
        ),
        Measurement(
            name="zero_shot_xnli",  # the languages of v1 Table 3, all items
            settings={"tasks": ["xnli"], "limit": None, "finer": FINER},
            smoke={"limit": 20},
            measure=_zero_shot,
            files=_of_tasks_read,
        ),
        Measurement(
            name="routing_english",  # which experts the questions of the English tasks go to
            settings={"tasks": ["english"], "items": 250},
            smoke={"items": 20},
            measure=_question_routing,
            files=_of_tasks_read,
        ),
        Measurement(
            name="routing_xnli",  # the same for XNLI, by language
            settings={"tasks": ["xnli"], "items": 250},
            smoke={"items": 20},
            measure=_question_routing,
            files=_of_tasks_read,
        ),
        Measurement(
            name="word_senses",  # do words of several senses reach more experts?
            settings={
                "split": "test",
                "lexicon": LEXICON,
                "false_friends": FALSE_FRIENDS,
                "contexts": CONTEXTS,
                "language": "en",
                "many": 3,
                "rule": "mean",
                "min_count": 5,
                "max_words": 4000,
            },
            measure=_word_senses,
            files=_of_words,
        ),
        Measurement(
            name="known_senses",  # the same on the generated text, whose truth is known
            settings={
                "split": "test",
                "rule": "mean",
                "min_count": 5,
                "per_word": 8,
                "choices": 2000,
                "true_cognates": "diverse",
            },
            smoke={"per_word": 2, "choices": 200},
            measure=_known_senses,
        ),
    )
}
