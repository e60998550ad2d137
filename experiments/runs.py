"""Runs and their records: what an experiment needs, what is done, stale or missing.

A record is current when its fingerprint is the one that today's declaration gives, with the text's hashes
taken from the record itself: judging a record needs no data, only running does. Which text the scale
declares (source, files' names, packing) is compared all the same, and the text itself where one is named.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from experiments.recipes import dense_layer
from experiments.scales import SCALES
from experiments.schema import (
    Curves,
    Experiment,
    PrintedSizes,
    RoutingFigure,
    Run,
    Scale,
    ScoreTable,
    Sensitivity,
    Sizes,
    Sweep,
    System,
    Table,
    WordsFigure,
)
from mhmoe.configuration import MHMoEConfig
from mhmoe.corpora import LocalCorpus
from mhmoe.records import Record, UserError, fingerprint
from mhmoe.training_config import TrainingConfig, identity

RESULTS = Path(__file__).resolve().parent.parent / "results"
COMMITTED = tuple(scale for scale in SCALES.values() if scale.name != "smoke")
TIE = 0.01  # perplexities this close, relatively, count as equal
State = Literal["done", "stale", "missing"]


def model_config(scale: Scale, system: System) -> MHMoEConfig:
    scale = system.at(scale)
    layer = system.layer(scale)
    return MHMoEConfig(
        **scale.model,
        feed_forward=dense_layer(scale).to_dict(),
        moe=None if layer is None else layer.to_dict(),
    )


def training_config(run: Run) -> TrainingConfig:
    """Raises UserError while the learning rate is not chosen yet."""
    if run.learning_rate is None:
        raise UserError(
            f"{run.name}: no learning rate is chosen yet for {run.system.name} at scale {run.scale.name}; "
            f"run `python -m experiments run learning_rates --scale {run.scale.name}` first"
        )
    arguments = dict(run.system.at(run.scale).training)
    arguments["steps"] = round(arguments["steps"] * run.steps_share)
    return TrainingConfig(**arguments, learning_rate=run.learning_rate)


def run_config(run: Run, data: Mapping[str, Any], processes: int = 1) -> dict[str, Any]:
    """All that determines the run's numbers but its seed; `data` is the packed text's fingerprint."""
    return identity(model_config(run.scale, run.system), training_config(run), data, processes)


def is_text_of(scale: Scale, data: Mapping[str, Any]) -> bool:
    """Whether a packed text's fingerprint is of the text that the scale declares, whatever its hashes are."""
    if data.get("packing") != dataclasses.asdict(scale.packing):
        return False
    found = data.get("corpus", {})
    try:
        corpus = scale.corpus()
    except ValueError:  # the hub's revision is not pinned here, so that of the record stands
        return found.get("kind") == "hub"
    same = _declares(corpus, found)
    if isinstance(corpus, LocalCorpus):
        sets = {name.rpartition("-")[0] for name in found.get("files", ())}
        same = same and sets == {f"{corpus.subfolder}/{name}" for name in corpus.sets}
    return same and found.get("kind") == corpus.kind


def _declares(corpus: Any, found: Mapping[str, Any]) -> bool:
    """Whether a corpus has the values of its fields that a fingerprint names."""
    for name in (field.name for field in dataclasses.fields(corpus) if field.name in found):
        value = getattr(corpus, name)
        if dataclasses.is_dataclass(value):
            same = isinstance(found[name], Mapping) and _declares(value, found[name])
        else:
            same = found[name] == (list(value) if isinstance(value, tuple) else value)  # as JSON has it
        if not same:
            return False
    return True


_LOADED: dict[Path, tuple[tuple[int, int, int], Record]] = {}


def _loaded(path: Path) -> Record:
    """A record, read and checked once as long as its file stays as it is: checking takes its time."""
    stat = path.stat()
    state = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
    if path not in _LOADED or _LOADED[path][0] != state:
        _LOADED[path] = (state, Record.load(path))
    return _LOADED[path][1]


class Records:
    """All records of a scale under results/runs, by name.

    corpus: the fingerprint of the corpus that a current record must be of; any if None.
    """

    def __init__(self, scale: Scale, results: Path = RESULTS, corpus: Mapping[str, Any] | None = None) -> None:
        self.scale, self.results, self.folder = scale, results, results / "runs" / scale.name
        self.corpus = corpus
        self.reload()

    def reload(self) -> None:
        """Read them again. Raises UserError if a file is damaged or holds another run's record."""
        self.by_name: dict[str, Record] = {}
        for path in sorted(self.folder.glob("*.json")):
            record = _loaded(path)
            if (record.scale, record.name) != (self.scale.name, path.stem):
                raise UserError(f"{path} is the record of {record.scale} {record.name}; move or remove it")
            self.by_name[path.stem] = record

    def path(self, run: Run) -> Path:
        return self.folder / f"{run.name}.json"

    def state(self, run: Run) -> State:
        """Whether the record that exists is the one this run would write."""
        record = self.by_name.get(run.name)
        if record is None:
            return "missing"
        return "done" if record.fingerprint == self.declared(run) else "stale"

    def not_done(self, runs: Iterable[Run]) -> list[Run]:
        """Those without a current record."""
        return [run for run in runs if self.state(run) != "done"]

    def declared(self, run: Run) -> str:
        """The fingerprint the run should have on the text, and by the number of processes where it matters, that its
        record names; "" if that is other text."""
        record = self.by_name.get(run.name)
        if record is None or run.learning_rate is None:
            return ""
        data, processes = record.config.get("data", {}), record.config.get("processes", 1)
        same = self.corpus is None or self.corpus == data.get("corpus")
        return fingerprint(run_config(run, data, processes), run.seed) if same and is_text_of(run.scale, data) else ""

    def chosen_rate(self, task: str, system: System) -> float | None:
        """The smallest rate of the grid within TIE of the lowest perplexity on `valid`.

        Not simply the best one: the grid's runs are short, and short runs favour high rates. None while one
        of the grid's records is missing or stale.
        """
        if system.tuned_as is not None:
            rate = self.chosen_rate(task, system.tuned_as)
            return None if rate is None else rate * system.rate_factor
        if len(self.scale.learning_rates) == 1:
            return self.scale.learning_rates[0]
        tried = list(tuning_runs(self.scale, task, system))
        if any(self.state(run) != "done" for run in tried):
            return None
        found = [
            (self.by_name[run.name].metrics["valid"]["perplexity"], rate)
            for run, rate in zip(tried, self.scale.learning_rates, strict=True)
        ]
        return min(rate for perplexity, rate in found if perplexity <= (1 + TIE) * min(found)[0])

    def seeds(self, task: str, system: System) -> list[int]:
        """The seeds of a system's final runs: those that the scale declares, and others that were run."""
        declared = list(self.scale.for_task(task).seeds)[: system.seeds]
        run = {r.seed for r in self.by_name.values() if r.name == final_name(task, system, r.seed)}
        return declared + sorted(run - set(declared))


def tuning_runs(scale: Scale, task: str, system: System) -> Iterator[Run]:
    """One run for every rate of the grid; they never see the test split."""
    scale = scale.for_task(task)
    if system.tuned_as is not None:
        yield from tuning_runs(scale, task, system.tuned_as)
        return
    if len(scale.learning_rates) == 1:
        return
    for rate in scale.learning_rates:
        yield Run(
            name=f"{task}-{system.name}-lr{rate:g}-seed{scale.tuning_seed}",
            scale=scale,
            task=task,
            system=system,
            seed=scale.tuning_seed,
            learning_rate=rate,
            steps_share=scale.tuning_share,
            tests=False,
        )


def final_name(task: str, system: System, seed: int) -> str:
    return f"{task}-{system.name}-seed{seed}"


def final_runs(scale: Scale, task: str, system: System, seeds: Sequence[int], records: Records) -> Iterator[Run]:
    """One run for every seed, at the chosen learning rate."""
    scale = scale.for_task(task)
    rate = records.chosen_rate(task, system)
    for seed in seeds:
        yield Run(
            name=final_name(task, system, seed),
            scale=scale,
            task=task,
            system=system,
            seed=seed,
            learning_rate=rate,
        )


def systems_of(experiment: Experiment) -> list[System]:
    """Every system of an experiment once, in the order of their first appearance."""
    match experiment:
        case Table() | ScoreTable():
            found: Iterable[System] = (row.system for row in experiment.rows)
        case Curves():
            found = (system for panel in experiment.panels.values() for system in panel.values())
        case Sweep() | Sizes():
            found = experiment.systems
        case PrintedSizes():
            found = (model.system for model in experiment.models if model.system is not None)
        case RoutingFigure() | WordsFigure():
            found = experiment.systems.values()
        case Sensitivity():
            varied = (system for variation in experiment.variations for system in variation.systems)
            found = (*experiment.systems.values(), *(system for system in varied if system is not None))
    return list({system.name: system for system in found}.values())


def plan(experiment: Experiment, scale: Scale, task: str, seeds: Sequence[int], records: Records) -> list[Run]:
    """All runs of an experiment: the learning rates first, then the finals seed by seed.

    Raises UserError if the experiment has no such task, or a final seed is the one that chooses the rates.
    """
    if task != experiment.task:
        raise UserError(f"task={task!r} is not that of {experiment.stem}; choose {experiment.task}")
    if isinstance(experiment, Sizes | PrintedSizes):
        return []
    if scale.tuning_seed in seeds and len(scale.learning_rates) > 1:
        raise UserError(f"seed {scale.tuning_seed} chooses the learning rates; take others for the final runs")
    systems = systems_of(experiment)
    runs = [run for system in systems for run in tuning_runs(scale, task, system)]
    runs = list({run.name: run for run in runs}.values())  # varied systems share a grid
    if isinstance(experiment, Sensitivity):
        seeds = seeds[:1]
    if not isinstance(experiment, Sweep):
        finals = [list(final_runs(scale, task, s, seeds[: s.seeds], records)) for s in systems]
        for i in range(max(map(len, finals))):
            runs += [of_system[i] for of_system in finals if i < len(of_system)]
    return runs


def planned(experiment: Experiment, scale: Scale, records: Records) -> list[Run]:
    """The plan with the scale's own seeds; empty where the scale has no text for the task."""
    if not scale.reads(experiment.task):
        return []
    return plan(experiment, scale, experiment.task, tuple(scale.for_task(experiment.task).seeds), records)
