"""Runs what is missing: trains, measures, writes the record.

Several processes may work on the same page. An interrupted run goes on from its checkpoint.
"""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tqdm import tqdm

from experiments.runner.execute import clean, command, device_name, execute, holds_model, model_folder
from experiments.runner.failures import Failures
from experiments.runner.measurements import Measurement, Subject, folder_of_data, is_measured, save
from experiments.runner.outlook import time_left
from experiments.runner.page import Page
from experiments.runner.processes import check_device, is_past, join_processes, try_lock
from experiments.runner.runs import Run, training_config, tuning_runs
from experiments.runner.store import RESULTS, Records
from experiments.runner.texts import CACHE, load_dataset
from experiments.scales import Scale
from mhmoe.cli import OutOfTime, stopped_at
from mhmoe.data.manifest import DATA_VARIABLE, DataFolder
from mhmoe.data.packing import PackedDataset
from mhmoe.io import UserError
from mhmoe.training.config import Sharding
from mhmoe.training.record import Record, provenance


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How to run, nothing of it in a fingerprint.

    seeds: of the final runs. systems: patterns of their names; all of the page if there are none. data: a corpus folder
    or a packed one. deadline: of time.monotonic(). results, cache: where records go, and where checkpoints, locks and
    models are kept. packed: where packed text is, if not in `cache`. corpora: of a task, the fingerprint of a current
    record's corpus; any if none. again: results whose finished runs are done once more, at their learning rates.
    train_only: nothing is measured. sharding: how a model lies on processes that share a run, if not whole in each.
    """

    seeds: tuple[int, ...]
    systems: tuple[str, ...] = ()
    data: Path | None = None
    deadline: float = math.inf
    results: Path = RESULTS
    cache: Path = CACHE
    packed: Path | None = None
    corpora: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    again: Path | None = None
    train_only: bool = False
    sharding: Sharding | None = None

    def wanted(self, runs: Sequence[Run]) -> list[Run]:
        """Those of `systems`, and those that choose their learning rates."""
        if not self.systems:
            return [*runs]
        own = [run for run in runs if any(fnmatchcase(run.system.name, pattern) for pattern in self.systems)]
        choosing = {each.name for run in own for each in tuning_runs(run.scale, run.task, run.system)}
        return [run for run in runs if run in own or run.name in choosing]

    def records(self, scale: Scale) -> Records:
        return Records(scale, self.results, self.corpora)

    def elsewhere(self, scale: Scale) -> list[Record]:
        """The committed records, where others are written: they tell how long a run may take."""
        return [] if self.results == RESULTS else list(Records(scale).by_name.values())

    def text(self, scale: Scale) -> PackedDataset:
        return load_dataset(scale, self.data, self.packed or self.cache)

    def execute(
        self, run: Run, text: PackedDataset, records: Records, number: str, again: Record | None = None
    ) -> bool:
        """One run, as `execute` says."""
        how = {"deadline": self.deadline, "number": number, "again": again, "sharding": self.sharding}
        return execute(run, text, records, self.cache, **how)


def planned_runs(page: Page, scale: Scale, options: Options, records: Records) -> list[Run]:
    """All runs of a command. Of those done again, the ones that choose a rate are left out: it is chosen."""
    if options.again is None:
        return options.wanted(page.runs(scale, options.seeds, records))
    reference = Records(scale, options.again, options.corpora)
    runs = options.wanted(page.runs(scale, options.seeds, reference))
    tests = any(run.tests for run in runs)
    return [run for run in runs if reference.state(run) == "done" and (run.tests or not tests)]


def run_all(page: Page, scale: Scale, options: Options) -> bool:
    """Do what is missing of an page, runs and measurements; False when the deadline came first.

    A process of its own is stopped within seconds of the deadline, whatever it is doing. Processes that share a run
    stop together, after a step.
    """
    join_processes(scale)
    failures = Failures(scale, options.cache)
    try:
        with stopped_at(math.inf if dist.is_initialized() else options.deadline):
            done = run_missing(page, scale, options, failures)
            done = done and (options.train_only or measure_missing(page, scale, options, failures))
    except OutOfTime:
        done = False
    failures.report()
    return done


def run_missing(page: Page, scale: Scale, options: Options, failures: Failures) -> bool:
    """Do every run that has no current record; False when the deadline came first. One that fails is noted."""
    records = options.records(scale)
    elsewhere = options.elsewhere(scale)
    text: PackedDataset | None = None
    clean(records, options.cache, options.packed or options.cache)
    progressed = None
    while True:
        runs = planned_runs(page, scale, options, records)
        failed = failures.names()
        todo = [run for run in records.pending_runs(runs) if not _fails(run, scale, failed)]
        if not todo or (progressed is not None and is_past(options.deadline)):
            return not todo
        if progressed is False:
            time.sleep(2)  # others work on what is left
        progressed = False
        for run in todo:
            if run.learning_rate is None:
                continue  # the tuning runs before it are not all done
            with try_lock(run.name, scale, options.cache) as mine:
                records.reload()
                if not mine or records.state(run) == "done" or run.name in failures.names():
                    continue
                if text is None:
                    check_device(scale)
                    text = options.text(run.scale)
                    _check_alike(text, [r for r in runs if records.state(r) == "done"], records)
                left = time_left(records.pending_runs(todo), [*records.by_name.values(), *elsewhere])
                number = f"run {runs.index(run) + 1} of {len(runs)}" + (f", {left} left of all" if left else "")
                done = True
                with failures.noted(run.name):
                    done = options.execute(run, text, records, number)
                if not done:
                    return False
                progressed = True
            break  # the plan may have changed: a rate may be chosen now
        records.reload()


def _fails(run: Run, scale: Scale, failed: Set[str]) -> bool:
    """Whether it has failed, or waits for a learning rate that a failed run was to help to choose."""
    tried = tuning_runs(scale, run.task, run.system) if failed and run.learning_rate is None else ()
    return not failed.isdisjoint([run.name, *(each.name for each in tried)])


def _check_alike(text: PackedDataset, done: Sequence[Run], records: Records) -> None:
    """Raises UserError if the corpus of the finished runs was cut into other tokens; no page could hold both."""
    others = [run.name for run in done if records.by_name[run.name].config["data"] != text.fingerprint]
    if others:
        raise UserError(
            f"{len(others)} current records, such as {others[0]}, read this text packed into other tokens; install "
            "their version of tokenizers (requirements.lock), or name another folder by --results"
        )


def data_folder(page: Page, scale: Scale, options: Options) -> DataFolder | None:
    """The folder of all data that is named, if a measurement of the page reads one and there is one."""
    parts = [part for part in page.parts if part.is_for(scale)]
    if all(measurement.files is None for part in parts for measurement in part.measurements):
        return None
    path = folder_of_data(options.data, scale, options.packed or options.cache)
    return None if path is None else DataFolder.at(path)


def unmeasured(page: Page, scale: Scale, options: Options, records: Records) -> list[tuple[Run, Measurement[Any]]]:
    """What the page wants to know of its final models, and nobody has measured."""
    parts = [part for part in page.parts if part.measurements and part.is_for(scale)]
    if not parts or options.again is not None or options.train_only:
        return []
    folder = data_folder(page, scale, options)
    found = [
        (run, measurement)
        for part in parts
        for run in options.wanted(part.runs(scale, options.seeds, records))
        if run.tests and not run.waits_for
        for measurement in part.measurements
        if records.state(run) != "done"
        or not is_measured(measurement, records.by_name[run.name], folder, options.results)
    ]
    return list({(run.name, measurement.name): (run, measurement) for run, measurement in found}.values())


def check_data(
    page: Page, scale: Scale, todo: Sequence[tuple[Run, Measurement[Any]]], options: Options
) -> DataFolder | None:
    """The data folder of what is to be measured yet, if that needs one.

    Raises UserError, before anything is trained for it, if there is no folder, or a file in it is missing or damaged.
    """
    folder = data_folder(page, scale, options)
    for measurement in {measurement.name: measurement for _, measurement in todo}.values():
        files = measurement.files_at(scale.name)
        if files and folder is None:
            raise UserError(
                f"{page.slug} measures {measurement.name}, which needs a data folder; set {DATA_VARIABLE} or "
                "give --data, or say --train-only to leave it out"
            )
        for file in files:
            assert folder is not None
            folder.hash_of(file)
    return folder


def measure_missing(page: Page, scale: Scale, options: Options, failures: Failures) -> bool:
    """Measure what the page wants of its finished models; False when the deadline came first. What fails is noted.

    A model that is not in the cache any more is trained again, and must come out as its record says. Raises UserError
    if the data folder lacks what is to be measured (see `check_data`).
    """
    records = options.records(scale)
    todo = [(run, of) for run, of in unmeasured(page, scale, options, records) if records.state(run) == "done"]
    folder = check_data(page, scale, todo, options)
    text: PackedDataset | None = None
    measured = 0
    for run in dict.fromkeys(run for run, _ in todo):
        record, model = records.by_name[run.name], model_folder(run, options.cache)
        wanted = [measurement for of, measurement in todo if of == run]
        measured += len(wanted)
        with try_lock(f"measure-{run.name}", scale, options.cache) as mine:  # so that one model is trained again once
            failed = failures.names()
            left = [m for m in wanted if mine and not is_measured(m, record, folder, options.results)]
            left = [m for m in left if failed.isdisjoint((run.name, f"{m.name}-{run.name}"))]
            if not left:
                continue
            if is_past(options.deadline):
                return False
            text, done = text or options.text(run.scale), True
            with failures.noted(run.name):
                number = f"for measurement {measured} of {len(todo)}"
                done = holds_model(model, record) or options.execute(run, text, records, number, record)
            if not done:
                return False
            if run.name in failures.names() or (dist.is_initialized() and dist.get_rank() > 0):
                continue
            for measurement in left:
                with failures.noted(f"{measurement.name}-{run.name}"):
                    source = provenance(command(), device_name(torch.device(scale.device)), torch.get_num_threads())
                    training = training_config(run)
                    subject = Subject(model=model, seed=run.seed, training=training, text=text, folder=folder)
                    values = measurement.measure(subject, measurement.settings_at(scale.name))
                    save(measurement, record, values, source, options.results)
                    tqdm.write(f"{scale.name} {run.name}: {measurement.name} measured ({measured} of {len(todo)})")
    return True
