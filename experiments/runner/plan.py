"""What a page needs trained: its final runs at the chosen rates, and before them the runs that choose."""

from collections.abc import Iterable, Iterator, Sequence

from experiments.runner.runs import Run, final_name, tuning_runs
from experiments.runner.store import Records
from experiments.scales import Scale
from experiments.system import System
from mhmoe.io import UserError


def final_runs(scale: Scale, task: str, system: System, seeds: Sequence[int], records: Records) -> Iterator[Run]:
    """One run for every seed, at the chosen learning rate."""
    scale = scale.for_task(task)
    chosen = system.chosen(records)
    rate = None if chosen is None else records.chosen_learning_rate(task, chosen)
    waits_for = system.settled_by if chosen is None else ""
    if rate is None and not scale.learning_rates:
        page = "learning_rates" if task == "english" else f"learning_rates_{task}"
        waits_for = waits_for or f"{page} --scale {scale.settled_at}"
    for seed in seeds:
        yield Run(
            name=final_name(task, system, seed),
            scale=scale,
            task=task,
            system=chosen or system,
            seed=seed,
            learning_rate=rate,
            waits_for=waits_for,
        )


def tuning_plan(systems: Iterable[System], scale: Scale, task: str, records: Records) -> list[Run]:
    """The runs that choose the systems' learning rates, once each: ablated systems share a grid."""
    settled = (system.chosen(records) or system for system in systems)
    runs = (run for system in settled for run in tuning_runs(scale, task, system))
    return list({run.name: run for run in runs}.values())


def final_plan(systems: Iterable[System], scale: Scale, task: str, seeds: Sequence[int], records: Records) -> list[Run]:
    """The systems' final runs, seed by seed.

    Raises UserError if a final seed is one that chooses rates or settings.
    """
    if chose := [seed for seed in seeds if scale.reserves(seed)]:
        raise UserError(f"seed {chose[0]} chooses learning rates and settings; take others for the final runs")
    finals = [list(final_runs(scale, task, s, s.final_seeds(scale, task, seeds), records)) for s in systems]
    return [of[i] for i in range(max(map(len, finals), default=0)) for of in finals if i < len(of)]
