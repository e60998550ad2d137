"""Runs and their records: what an experiment needs, what is done, stale or missing.

A record is current when its fingerprint is the one that today's declaration gives, with the text's hashes
taken from the record itself: judging a record needs no data, only running does.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from experiments.recipes import dense_layer
from experiments.schema import Curves, Experiment, Run, Scale, Sizes, Sweep, System, Table
from mhmoe.configuration import MHMoEConfig
from mhmoe.records import Record, UserError, fingerprint
from mhmoe.training import TrainingConfig

RESULTS = Path(__file__).resolve().parent.parent / "results"
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
    arguments = dict(run.scale.training)
    arguments["steps"] = round(arguments["steps"] * run.steps_share)
    return TrainingConfig(**arguments, learning_rate=run.learning_rate)


def run_config(run: Run, data: Mapping[str, Any]) -> dict[str, Any]:
    """All that determines the run's numbers but its seed; `data` is the packed text's fingerprint."""
    model = model_config(run.scale, run.system)
    fields = {name: getattr(model, name) for name in MHMoEConfig.__annotations__}
    return {"model": fields, "training": dataclasses.asdict(training_config(run)), "data": dict(data)}


class Records:
    """All records of a scale under results/runs, by name."""

    def __init__(self, scale: Scale, results: Path = RESULTS) -> None:
        self.scale, self.folder = scale, results / "runs" / scale.name
        self.reload()

    def reload(self) -> None:
        found = [Record.load(path) for path in sorted(self.folder.glob("*.json"))]
        self.by_name = {record.name: record for record in found}

    def path(self, run: Run) -> Path:
        return self.folder / f"{run.name}.json"

    def state(self, run: Run) -> State:
        """Whether the record that exists is the one this run would write."""
        record = self.by_name.get(run.name)
        if record is None:
            return "missing"
        return "done" if record.fingerprint == self.declared(run) else "stale"

    def declared(self, run: Run) -> str:
        """The fingerprint the run should have on the text that its record names; "" if that is other text."""
        record = self.by_name.get(run.name)
        if record is None or run.learning_rate is None:
            return ""
        data = record.config["data"]
        corpus, packing = data["corpus"], dataclasses.asdict(run.scale.packing)
        if data["packing"] != packing or corpus["kind"] != run.scale.corpus().kind:
            return ""
        return fingerprint(run_config(run, data), run.seed)

    def chosen_rate(self, task: str, system: System) -> float | None:
        """The rate of the grid with the lowest perplexity on `valid`; None while one is missing."""
        if len(self.scale.learning_rates) == 1:
            return self.scale.learning_rates[0]
        tried = list(tuning_runs(self.scale, task, system))
        if any(self.state(run) != "done" for run in tried):
            return None
        best = min(tried, key=lambda run: self.by_name[run.name].metrics["valid"]["nll_per_token"])
        return best.learning_rate


def tuning_runs(scale: Scale, task: str, system: System) -> Iterator[Run]:
    """One run for every rate of the grid; they never see the test split."""
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


def final_runs(
    scale: Scale, task: str, system: System, seeds: Sequence[int], records: Records
) -> Iterator[Run]:
    rate = records.chosen_rate(task, system)
    for seed in list(seeds)[: system.seeds]:
        yield Run(
            name=f"{task}-{system.name}-seed{seed}",
            scale=scale,
            task=task,
            system=system,
            seed=seed,
            learning_rate=rate,
        )


def systems_of(experiment: Experiment) -> list[System]:
    """Every system of an experiment once, in the order of their first appearance."""
    match experiment:
        case Table():
            found: Iterable[System] = (row.system for row in experiment.rows)
        case Curves():
            found = (system for panel in experiment.panels.values() for system in panel)
        case Sweep() | Sizes():
            found = experiment.systems
    return list({system.name: system for system in found}.values())


def plan(
    experiment: Experiment, scale: Scale, task: str, seeds: Sequence[int], records: Records
) -> list[Run]:
    """All runs of an experiment: the learning rates first, then the finals seed by seed."""
    if task not in experiment.tasks:
        raise UserError(
            f"task={task!r} is not one of {experiment.stem}'s; choose one of {', '.join(experiment.tasks)}"
        )
    if isinstance(experiment, Sizes):
        return []
    systems = systems_of(experiment)
    runs = [run for system in systems for run in tuning_runs(scale, task, system)]
    if not isinstance(experiment, Sweep):
        finals = [list(final_runs(scale, task, system, seeds, records)) for system in systems]
        for i in range(max(map(len, finals))):
            runs += [of_system[i] for of_system in finals if i < len(of_system)]
    return runs
