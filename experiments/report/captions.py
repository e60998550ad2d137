"""The records of an experiment's final runs, and what every page says above them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from analysis.results import Result
from analysis.tables import caption, setting
from experiments.layers import HEADS
from experiments.runner.measurements import Measurement, SomeResult, values_of
from experiments.runner.plan import final_runs
from experiments.runner.store import RESULTS, Records
from experiments.scales import Scale
from experiments.system import System
from mhmoe.data.multimodal import MultimodalCorpus
from mhmoe.io import UserError
from mhmoe.training.record import Record

MATCHINGS = (
    "with `parameters`, as many as X-MoE has, by the inner width (v1 Table 11; h times the expert FLOPs); with "
    "`compute`, as many parameters and FLOPs but for the router's, by inner width and number of experts (v2)"
)
CONTROL = "X-MoE with k = h is a control: the FLOPs and selections of MH-MoE with `parameters`, without heads"


def matchings(records: Sequence[Record]) -> str:
    """What "of equal size" means on a page that shows these runs."""
    controlled = any(record.system.startswith("xmoe_") and f"_k{HEADS}" in record.system for record in records)
    return f"{MATCHINGS}. {CONTROL}" if controlled else MATCHINGS


def final_records(
    systems: Sequence[System], scale: Scale, records: Records, task: str
) -> tuple[dict[str, list[Record]], dict[str, list[Record]]]:
    """Each system's records of final runs: the current ones, and the stale ones, which enter no number.

    Raises UserError if the current ones are of several texts, over which no page has a mean.
    """
    current: dict[str, list[Record]] = {}
    stale: dict[str, list[Record]] = {}
    for system in systems:
        runs = final_runs(scale, task, system, records.seeds(task, system), records)
        found = [(records.by_name[run.name], records.state(run)) for run in runs if run.name in records.by_name]
        current[system.name] = [record for record, state in found if state == "done"]
        stale[system.name] = [record for record, state in found if state == "stale"]
    shown = [record for of_system in current.values() for record in of_system]
    other = next((r.name for r in shown if r.config.get("data") != shown[0].config.get("data")), "")
    if other and scale.name != "smoke":  # whose text is what is installed
        raise UserError(
            f"in {records.folder} {shown[0].name} and {other} were trained on different data; move one away"
        )
    return current, stale


def current_runs(systems: Sequence[System], scale: Scale, records: Records, task: str) -> dict[str, list[Record]]:
    """Each system's finished final runs, the stale ones left out."""
    return final_records(systems, scale, records, task)[0]


def measured_values(
    measurements: Sequence[Measurement[SomeResult]], current: Mapping[str, Sequence[Record]], results: Path = RESULTS
) -> dict[tuple[str, str], dict[int, SomeResult]]:
    """What was measured on the models of current runs: (measurement, system) -> seed -> result."""
    found: dict[tuple[str, str], dict[int, SomeResult]] = {}
    for measurement in measurements:
        for system, records in current.items():
            of_seeds = {r.seed: v for r in records if (v := values_of(measurement, r, results)) is not None}
            found[measurement.name, system] = of_seeds
    return found


def measured_systems(
    measurement: Measurement[SomeResult], systems: Mapping[str, System], scale: Scale, records: Records, task: str
) -> tuple[dict[str, dict[int, SomeResult]], list[Record]]:
    """Label -> seed -> result, for the labelled systems that have any; and the records of the models that were
    measured."""
    current = current_runs([*systems.values()], scale, records, task)
    values = measured_values([measurement], current, records.results)
    found = {label: of for label, system in systems.items() if (of := values[measurement.name, system.name])}
    return found, [r for label, of in found.items() for r in current[systems[label].name] if r.seed in of]


def caption_of(records: Sequence[Record], measured: Iterable[Result] = ()) -> list[str]:
    """What stands above a page's numbers, of runs and of what was measured on their models."""
    lines = caption(records, matching=matchings(records), sources=sources(records))
    return [lines[0] + generated_note(measured), *lines[1:]]


def setting_of(records: Sequence[Record]) -> str:
    """What stands below a figure, beside the seeds of what it shows."""
    return setting(records, sources(records))


def generated_note(measured: Iterable[Result]) -> str:
    """What a caption adds where the data that something was measured with are no natural ones."""
    generated = any(result.is_generated for result in measured)
    return " Questions and lexicons are generated, with known answers, about the generated text." if generated else ""


def of_all(found: Mapping[str, Mapping[int, SomeResult]]) -> list[SomeResult]:
    """The results of all labels and seeds of `measured_systems`."""
    return [result for seeds in found.values() for result in seeds.values()]


def sources(records: Sequence[Record]) -> list[str]:
    """What the text is, from the records: kind and files of the corpus."""
    found: set[str] = set()
    for record in records:
        corpus = record.config["data"]["corpus"]
        names = {Path(name).name.rsplit("-", 1)[0] for name in corpus.get("files", {})}
        if corpus["kind"] == MultimodalCorpus.kind:
            parts = corpus["images"], corpus["text"]
            files = [Path(name).name for part in parts for name in part.get("files", [part["kind"]])]
            names = {re.split("[-_.]", name)[0] for name in files}
        kind = f"{corpus['folder']} {corpus['kind']}" if "folder" in corpus else str(corpus["kind"])
        found.add(f"{kind} ({', '.join(sorted(names))})" if names else kind)
    return sorted(found)
