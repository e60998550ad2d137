"""What somebody sends: whether a record or a measurement is valid and of a declared run; and taking it in."""

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.runner.manifest import register
from experiments.runner.measurements import fingerprint_of, path_of, read_measured
from experiments.runner.page import Page
from experiments.runner.runs import Run
from experiments.runner.store import RESULTS, Records
from experiments.scales import SCALES
from mhmoe.fields import shown
from mhmoe.io import UserError, write_atomically
from mhmoe.training.record import Record


@dataclasses.dataclass(frozen=True)
class Judged:
    """A valid file: what it is of, whether that is declared, its place among the results, its manifest's folder."""

    name: str
    verdict: str
    place: Path
    folder: Path


def judge(path: Path, pages: Iterable[Page], results: Path = RESULTS) -> Judged:
    """Raises UserError, in one line, if the file is no valid record and no valid measurement."""
    if (name := _measurement_of(path)) is not None:
        return _judge_measurement(path, name, pages, results)
    if path.suffix == ".jsonl":
        return _judge_several(path, list(pages), results)
    record = Record.load(path)
    verdict, folder = _judge_record(path, record, pages, results, f"{record.name}.json")
    return Judged(f"{record.scale} {record.name}", verdict, folder / f"{record.name}.json", folder)


def order(path: Path) -> tuple[int, str]:
    """What others are judged by comes first: learning rates and short trials, trials at full length, final runs,
    measurements."""
    if _measurement_of(path) is not None:
        return 3, path.name
    first = path.suffix == ".jsonl" or "-lr" in path.name
    return (0 if first else 1 if re.search(r"_t\d+-seed", path.name) else 2), path.name


def take_in(path: Path, judged: Judged) -> None:
    """Copy a valid file to its place, unless it lies there, and list it in the manifest.

    Raises UserError if it is not current, or its place has another file.
    """
    if judged.verdict != "current":
        raise UserError(f"{path} is {judged.verdict}; only current ones are registered")
    content = path.read_bytes()
    if judged.place.exists() and judged.place.read_bytes() != content:
        raise UserError(f"{judged.place} is there already, and differs from {path}; remove it first, if it is worse")
    if not judged.place.exists():
        write_atomically(judged.place, content)
    register(judged.place, judged.folder)


def _judge_several(path: Path, pages: Sequence[Page], results: Path) -> Judged:
    """Of a file with a record a line (gather.py), which is current if every one is."""
    records = Record.load_lines(path)
    if len({record.scale for record in records}) != 1:
        raise UserError(f"{path} must have records of one scale, and has {len(records)} of several or none")
    if len({record.name for record in records}) < len(records):
        raise UserError(f"{path} has several records of one run; leave one of each")
    judged = [_judge_record(path, record, pages, results, path.name) for record in records]
    verdict = next((verdict for verdict, _ in judged if verdict != "current"), "current")
    folder = judged[0][1]
    return Judged(f"{len(records)} records of {records[0].scale}", verdict, folder / path.name, folder)


def _judge_record(path: Path, record: Record, pages: Iterable[Page], results: Path, place: str) -> tuple[str, Path]:
    """The verdict, and the folder of its scale's records. place: the name that its file would have there."""
    if record.scale not in SCALES:
        raise UserError(f"{path}: scale={record.scale!r} is not known; choose one of {', '.join(SCALES)}")
    records = Records(SCALES[record.scale], results)
    there = records.by_name.get(record.name)
    records.by_name[record.name] = record  # it is judged as if it were there
    found = [run for page in pages for run in _planned(page, record, records)]
    run = next((run for run in found if run.name == record.name), None)
    if run is None:
        return "of no declared run", records.folder
    if run.learning_rate is None:
        return "of a declared run, but the records that choose its learning rate are not here", records.folder
    if records.state(run) != "done":
        return "not current: what is declared has another config, learning rate or text", records.folder
    if other := records.of_other_text(run, record.config["data"]):
        return f"of another text than {other} there, with which no page may show it", records.folder
    beside = None if (records.folder / place).exists() else there  # what lies in its own place, `take_in` compares
    is_stale = beside is not None and beside.fingerprint != record.fingerprint and place.endswith(".json")
    if beside in (None, record) or is_stale:
        return "current", records.folder
    return "of a run that has another record there, in a file beside it", records.folder


def _planned(page: Page, record: Record, records: Records) -> list[Run]:
    scale = records.scale
    if page.task != record.task or not scale.reads(record.task) or record.seed < 0:
        return []
    seeds = [] if scale.reserves(record.seed) else [record.seed]
    return page.runs(scale, seeds, records)


def _measurement_of(path: Path) -> str | None:
    """The name of the measurement that a file says it is; None if it is none."""
    try:
        raw: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None  # which the record's reader says better
    return str(raw["measurement"]) if isinstance(raw, dict) and "measurement" in raw else None


def _judge_measurement(path: Path, name: str, pages: Iterable[Page], results: Path) -> Judged:
    declared = {measurement.name: measurement for page in pages for measurement in page.measurements}
    if name not in declared:
        raise UserError(f"{path} is a measurement {shown(name)}, which is not declared")
    measurement = declared[name]
    found = read_measured(path, measurement)
    if found.scale not in SCALES:
        raise UserError(f"{path} is of scale {shown(found.scale)}, which is not declared")
    records = Records(SCALES[found.scale], results)
    record = records.by_name.get(found.run)
    if record is None:
        raise UserError(f"{path} is of {found.run}, whose record is not in {records.folder}; register that first")
    named = (record.task, record.system, record.seed, record.fingerprint)
    if (found.task, found.system, found.seed, found.run_fingerprint) != named:
        raise UserError(f"{path} is not of the run {found.run} that {records.folder} has")
    current = found.fingerprint == fingerprint_of(measurement, record)
    verdict = "current" if current else "not current: the measurement is declared with other settings"
    place = path_of(measurement, record, results)
    return Judged(f"{found.measurement} of {found.scale} {found.run}", verdict, place, place.parents[1])
