"""Records into results/: tables, figures, the ledger. Reads committed records and nothing else.

results/<stem>.md, .csv and .png hold every committed scale; the smoke scale is a check of the machinery, so
its records and pages stay out of git, under results/smoke.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from analysis.claims import Claim, Verdict, decide, measure
from analysis.ledger import ledger_markdown
from analysis.measured_claims import measure_values
from analysis.render import csv_text
from experiments.finals import current_runs, measured_values
from experiments.pages import (
    curves_section,
    printed_sizes_section,
    scales_of,
    sensitivity_section,
    sizes_section,
    sweep_section,
)
from experiments.routing_page import routing_section
from experiments.runs import RESULTS, Records, systems_of
from experiments.schema import (
    Curves,
    Experiment,
    Page,
    PrintedSizes,
    RoutingFigure,
    Scale,
    ScoreTable,
    Sensitivity,
    Sizes,
    Sweep,
    Table,
    WordsFigure,
)
from experiments.score_page import score_section
from experiments.table_page import table_section
from experiments.words_page import words_section
from mhmoe.records import write_atomically

SECTIONS: dict[type[Page], Callable[..., tuple[str, str]]] = {
    Table: table_section,
    Curves: curves_section,
    ScoreTable: score_section,
    RoutingFigure: routing_section,
    WordsFigure: words_section,
    Sweep: sweep_section,
    Sensitivity: sensitivity_section,
    Sizes: sizes_section,
    PrintedSizes: printed_sizes_section,
}


def render(experiment: Experiment, scales: Sequence[Scale], folder: Path, results: Path = RESULTS) -> dict[Path, str]:
    """Write an experiment's files; returns those that are text, for printing and comparing."""
    pages: list[str] = [f"# {experiment.title}\n"]
    tables: list[str] = []
    scales = scales_of(experiment, scales)
    for scale in scales:
        records = Records(scale, results)
        if not scale.reads(experiment.task):
            continue
        section = SECTIONS[type(experiment)]
        page, table = section(experiment, scale, records, folder)
        if page:
            pages.append(f"## Scale {scale.name}\n\n{page}")
            tables.append(table)
    if not tables:
        declared = [scale.name for scale in scales if scale.reads(experiment.task)]
        pages.append(f"Not run at {'any of the scales ' if len(declared) > 1 else 'scale '}{', '.join(declared)}.\n")
    pages += [f"{note}\n" for note in experiment.notes]
    files = {
        folder / f"{experiment.stem}.md": "\n".join(pages),
        folder / f"{experiment.stem}.csv": _joined(tables),
    }
    for path, content in files.items():
        write_atomically(path, content)
    return files


def verdicts(experiments: Sequence[Experiment], scales: Sequence[Scale], results: Path = RESULTS) -> list[Verdict]:
    """A verdict on every claim, by the current records alone."""
    found: list[Verdict] = []
    for experiment in experiments:
        for scale in scales:
            records = Records(scale, results)
            if not scale.reads(experiment.task):
                continue
            if not experiment.claims or not records.by_name:
                continue
            current = current_runs(systems_of(experiment), scale, records, experiment.task)
            runs = [record for several in current.values() for record in several]
            values = measured_values(experiment.measurements, current, results)
            found += decide(
                [
                    measure(claim, runs, scale.name)
                    if isinstance(claim, Claim)
                    else measure_values(claim, values, scale.name)
                    for claim in experiment.claims
                ]
            )
    return found


def render_claims(
    experiments: Sequence[Experiment], scales: Sequence[Scale], folder: Path, results: Path = RESULTS
) -> dict[Path, str]:
    """The ledger, claims.md."""
    titles = {experiment.stem: experiment.title for experiment in experiments}
    path = folder / "claims.md"
    files = {path: ledger_markdown(verdicts(experiments, scales, results), titles)}
    write_atomically(path, files[path])
    return files


def _joined(tables: Sequence[str]) -> str:
    """Several CSV texts with the same heading as one."""
    lines = [table.splitlines() for table in tables]
    return (
        "\n".join([*lines[0][:1], *(line for table in lines for line in table[1:])]) + "\n" if lines else csv_text([])
    )
