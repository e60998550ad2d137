"""The records of an experiment's final runs, and what every page says above them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.tables import caption, setting
from experiments.runner.measurements import Measurement, data_of, measured
from experiments.runner.page import Page
from experiments.runner.plan import final_runs
from experiments.runner.runs import final_name
from experiments.runner.store import RESULTS, Records
from experiments.scales import Scale
from experiments.systems import HEADS, System
from mhmoe.data.manifest import GENERATED
from mhmoe.training.record import Record

READINGS = (
    "`parameters`: as many parameters as X-MoE, by the inner width (v1 Table 11; h times the expert FLOPs). "
    "`compute`: as many parameters and FLOPs, by inner width and number of experts (v2)"
)
CONTROL = f"The control is X-MoE with k = h = {HEADS}: the FLOPs and selections of `parameters`, without heads"


def readings(records: Sequence[Record]) -> str:
    """What "of equal size" means on a page that shows these runs."""
    controlled = any(record.system.startswith("xmoe_") and f"_k{HEADS}" in record.system for record in records)
    return f"{READINGS}. {CONTROL}" if controlled else READINGS


def current_runs(systems: Sequence[System], scale: Scale, records: Records, task: str) -> dict[str, list[Record]]:
    """Each system's finished final runs, the stale ones left out."""
    current: dict[str, list[Record]] = {}
    for system in systems:
        runs = final_runs(scale, task, system, records.seeds(task, system), records)
        current[system.name] = [records.by_name[run.name] for run in runs if records.state(run) == "done"]
    return current


def measured_values(
    measurements: Sequence[Measurement], current: Mapping[str, Sequence[Record]], results: Path = RESULTS
) -> dict[tuple[str, str], dict[int, Mapping[str, Any]]]:
    """What was measured on the models of current runs: (measurement, system) -> seed -> values."""
    found: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
    for measurement in measurements:
        for system, records in current.items():
            of_seeds = {r.seed: measured(measurement, r, results) for r in records}
            found[measurement.name, system] = {seed: m.values for seed, m in of_seeds.items() if m is not None}
    return found


def measured_systems(
    page: Page, systems: Mapping[str, System], scale: Scale, records: Records
) -> tuple[dict[str, dict[int, Mapping[str, Any]]], list[Record]]:
    """Label -> seed -> values of the page's first measurement, for the labelled systems that have any; and the
    records of the models that were measured."""
    first = page.measurements[0]
    current = current_runs([*systems.values()], scale, records, page.task)
    values = measured_values([first], current, records.results)
    found = {label: dict(of) for label, system in systems.items() if (of := values[first.name, system.name])}
    return found, [r for label, of in found.items() for r in current[systems[label].name] if r.seed in of]


def caption_of(records: Sequence[Record], measured: Iterable[Mapping[str, Any]] = ()) -> list[str]:
    """What stands above a page's numbers, of runs and of values that were measured on their models."""
    lines = caption(records, reading=readings(records), sources=sources(records))
    return [lines[0] + generated_note(measured), *lines[1:]]


def setting_of(records: Sequence[Record]) -> str:
    """What stands below a figure, beside the seeds of what it shows."""
    return setting(records, sources(records))


def generated_note(measured: Iterable[Mapping[str, Any]]) -> str:
    """What a caption adds where the data that some values were measured with are no natural ones."""
    generated = any(data_of(values)[0] == GENERATED for values in measured)
    return " Questions and lexicons are generated, with known answers, about the generated text." if generated else ""


def of_all(found: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[Mapping[str, Any]]:
    """The values of all labels and seeds of `measured_systems`."""
    return [values for seeds in found.values() for values in seeds.values()]


def declared_marks(systems: Sequence[System], scale: Scale, records: Records, task: str) -> dict[tuple[str, str], str]:
    """What `divide` asks for: the fingerprint that every final run should have."""
    runs = (run for s in systems for run in final_runs(scale, task, s, records.seeds(task, s), records))
    return {(scale.name, run.name): records.declared(run) or "other" for run in runs}


def all_runs(systems: Sequence[System], scale: Scale, records: Records, task: str) -> dict[str, list[Record]]:
    """Each system's records of final runs, stale ones included."""
    names = {s.name: [final_name(task, s, seed) for seed in records.seeds(task, s)] for s in systems}
    return {s: [records.by_name[n] for n in found if n in records.by_name] for s, found in names.items()}


def sources(records: Sequence[Record]) -> list[str]:
    """What the text is, from the records: kind and files of the corpus."""
    found: set[str] = set()
    for record in records:
        corpus = record.config["data"]["corpus"]
        names = {Path(name).name.rsplit("-", 1)[0] for name in corpus.get("files", {})}
        kind = f"{corpus['folder']} {corpus['kind']}" if "folder" in corpus else str(corpus["kind"])
        found.add(f"{kind} ({', '.join(sorted(names))})" if names else kind)
    return sorted(found)
