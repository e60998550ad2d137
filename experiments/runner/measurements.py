"""What is measured on finished models, apart from their training.

A `Measurement` is data, as an experiment is: a name, the settings that determine its values, and the function
of analysis/ that does it, with the type of its result. Results are records of their own,
results/measurements/<scale>/<name>/<run>.json, current as long as run and settings are those that are declared.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from analysis.results import Result, Source
from analysis.routing.text import Windows, load_checkpoint, windows_of
from experiments.runner.manifest import write_listed
from experiments.runner.store import RESULTS
from experiments.scales import Scale
from mhmoe.data.manifest import DATA_VARIABLE, DataFolder
from mhmoe.data.multimodal import MultimodalCorpus
from mhmoe.data.packing import PackedDataset
from mhmoe.from_json import from_json
from mhmoe.io import UserError, parse_json
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.config import TrainingConfig
from mhmoe.training.record import Record, fingerprint
from mhmoe.training.record_checks import Provenance

SCHEMA_VERSION = 2
SomeResult = TypeVar("SomeResult", bound=Result)
Given = TypeVar("Given", bound=Result, covariant=True)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a measurement may look at: the model's folder, the seed it started from and how it was trained, the packed
    text, and the folder of all data, where it reads files of that."""

    model: Path
    seed: int
    training: TrainingConfig
    text: PackedDataset
    folder: DataFolder | None

    def read(self, split: str) -> tuple[MHMoEForCausalLM, Windows]:
        """The model, and a split of its text in windows of its context."""
        model, _ = load_checkpoint(self.model)
        return model, windows_of(getattr(self.text, split), model.config.max_position_embeddings)

    def images(self, files: Sequence[str]) -> tuple[MultimodalCorpus, Source | None]:
        """Those of the text that the model was trained on, and what `files` of the folder they are, if they are any."""
        folder = self.folder if files else None
        corpus = MultimodalCorpus.of_images(self.text.fingerprint["corpus"], None if folder is None else folder.path)
        if folder is None:
            return corpus, None
        return corpus, Source(kind=folder.kind, files={file: folder.hash_of(file) for file in files})

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


@dataclass(frozen=True, kw_only=True)
class Measurement(Generic[Given]):
    """name: its folder. settings: all that determines its values but the model and its text; smoke: what is
    different there at the smoke scale. result: the type of its values. measure: gives them, None where a model has
    none. files: what it reads of the folder of all data with these settings, None if the packed text is enough;
    raises UserError where a package for it is missing. within: a measurement of more tasks, from whose values
    `narrow` takes those of `settings["tasks"]`."""

    name: str
    settings: Mapping[str, Any]
    result: type[Given]
    measure: Callable[[Subject, Mapping[str, Any]], Given | None]
    smoke: Mapping[str, Any] = field(default_factory=dict[str, Any])
    files: Callable[[Mapping[str, Any]], Sequence[str]] | None = None
    within: "Measurement[Given] | None" = None
    narrow: Callable[[Any, Sequence[str]], Given] | None = None

    def settings_at(self, scale: str) -> dict[str, Any]:
        return {**self.settings, **(self.smoke if scale == "smoke" else {})}

    def files_at(self, scale: str) -> Sequence[str]:
        """Raises UserError where a package for reading them is missing."""
        return () if self.files is None else self.files(self.settings_at(scale))


@dataclass(frozen=True, kw_only=True)
class Measured(Generic[SomeResult]):
    """A measurement of one run's model. `run` and `run_fingerprint` say of which. values: None if it has none."""

    measurement: str
    run: str
    run_fingerprint: str
    scale: str
    task: str
    system: str
    seed: int
    settings: dict[str, Any]
    fingerprint: str
    provenance: Provenance
    values: SomeResult | None
    schema_version: int = SCHEMA_VERSION


def fingerprint_of(measurement: Measurement[Any], run: Record) -> str:
    """The fingerprint that a current measurement of this run has."""
    identity = {"measurement": measurement.name, "settings": measurement.settings_at(run.scale), "run": run.fingerprint}
    return fingerprint(identity, run.seed)


def path_of(measurement: Measurement[Any], run: Record, results: Path = RESULTS) -> Path:
    return results / "measurements" / run.scale / measurement.name / f"{run.name}.json"


def measured(measurement: Measurement[SomeResult], run: Record, results: Path = RESULTS) -> Measured[SomeResult] | None:
    """The current measurement of a run, if there is one; or what a wider one found of the same.

    Raises UserError if a file is damaged.
    """
    found = _read(measurement, run, results)
    wider = measurement.within
    if found is not None or wider is None or measurement.narrow is None:
        return found
    found = _read(wider, run, results) if _but_tasks(wider, run) == _but_tasks(measurement, run) else None
    if found is None or found.values is None:
        return found
    return dataclasses.replace(found, values=measurement.narrow(found.values, measurement.settings["tasks"]))


def values_of(measurement: Measurement[SomeResult], run: Record, results: Path = RESULTS) -> SomeResult | None:
    """What was measured of a run; None if nothing was yet, or its model has nothing of it."""
    found = measured(measurement, run, results)
    return None if found is None else found.values


def _but_tasks(measurement: Measurement[Any], run: Record) -> dict[str, Any]:
    return {**measurement.settings_at(run.scale), "tasks": None}


def _read(measurement: Measurement[SomeResult], run: Record, results: Path) -> Measured[SomeResult] | None:
    path = path_of(measurement, run, results)
    if not path.is_file():
        return None
    found = read_measured(path, measurement)
    return found if found.fingerprint == fingerprint_of(measurement, run) else None


def read_measured(path: Path, measurement: Measurement[SomeResult]) -> Measured[SomeResult]:
    """Raises UserError if the file is damaged."""
    try:
        raw = parse_json(path.read_bytes())
        if (version := raw.get("schema_version")) != SCHEMA_VERSION:
            raise ValueError(f"schema_version={version!r}, this version reads {SCHEMA_VERSION}")
        return from_json(Measured, raw, values=measurement.result | None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"measurement {path} is damaged ({error}); remove it and measure again") from None


def is_measured(measurement: Measurement[Any], run: Record, folder: DataFolder | None, results: Path = RESULTS) -> bool:
    """Whether there is a current measurement of a run, and none of its files differs in the folder that is given.

    Raises UserError if a file is damaged.
    """
    found = measured(measurement, run, results)
    if found is None or found.values is None or found.values.data is None or folder is None:
        return found is not None
    return all(folder.sha256.get(file, sha256) == sha256 for file, sha256 in found.values.data.files.items())


def save(
    measurement: Measurement[SomeResult],
    run: Record,
    values: SomeResult | None,
    provenance: Provenance,
    results: Path = RESULTS,
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
        fingerprint=fingerprint_of(measurement, run),
        provenance=provenance,
        values=values,
    )
    text = json.dumps(dataclasses.asdict(record), separators=(",", ":")) + "\n"
    write_listed(path_of(measurement, run, results), text, results / "measurements" / run.scale)
