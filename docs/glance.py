"""Tables of differences in perplexity for docs/results.md, from the records and the ledger.

A cell: the first system's test perplexity less the second's, in percent of it, over common seeds with the interval of
95%, the number of seeds, and the ledger's verdict where the ledger has the claim.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.claims.rules import Claim, measure
from analysis.tables import Column, table_markdown
from experiments.runner.store import RESULTS, Records
from experiments.scales import SCALES
from mhmoe.training.record import Record

WORDS = {
    "holds": "**holds**",
    "not reproduced": "**not reproduced**",
    "cannot tell": "not told",
    "not testable here": "not testable",
}
OPPOSITE = {"holds": "not reproduced", "not reproduced": "holds"}


@dataclass(frozen=True)
class Where:
    """A column. form: how a row's systems are called there."""

    heading: str
    scale: str
    form: str
    task: str = "english"


@dataclass(frozen=True)
class Difference:
    """A row: `first` to `second`, whose names the column's form completes."""

    label: str
    first: str
    second: str


@dataclass(frozen=True)
class Glance:
    columns: Sequence[Where]
    rows: Sequence[Difference]
    printed: bool = False
    """With what the papers print of it."""


MAIN = (
    Difference("X-MoE to Dense", "xmoe_8", "dense"),
    Difference("X-MoE, 32 experts to 8", "xmoe_32", "xmoe_8"),
    Difference("X-MoE, k = 4, to X-MoE", "xmoe_8_k4", "xmoe_8"),
    Difference("fine-grained X-MoE to X-MoE", "fine_8", "xmoe_8"),
    Difference("MH-MoE, equal FLOPs, to no layer", "mhmoe_8_compute", "null"),
    Difference("... to Dense", "mhmoe_8_compute", "dense"),
    Difference("... to X-MoE", "mhmoe_8_compute", "xmoe_8"),
    Difference("... 32 experts to 8", "mhmoe_32_compute", "mhmoe_8_compute"),
    Difference("... 32 experts, to X-MoE with 32", "mhmoe_32_compute", "xmoe_32"),
    Difference("MH-MoE, equal parameters, to no layer", "mhmoe_8_parameters", "null"),
    Difference("... to X-MoE", "mhmoe_8_parameters", "xmoe_8"),
    Difference("... to X-MoE, k = 4", "mhmoe_8_parameters", "xmoe_8_k4"),
    Difference("... 32 experts, to X-MoE with 32", "mhmoe_32_parameters", "xmoe_32"),
)
GLANCES = {
    "main": Glance(
        (
            Where("2M tokens, as published", "cpu", "{}"),
            Where("2M tokens, tuned", "cpu", "{}_tuned"),
            Where("12M tokens, as published", "long", "{}"),
            Where("12M tokens, tuned", "long", "{}_tuned"),
        ),
        MAIN,
        printed=True,
    ),
    "tasks": Glance(
        (
            Where("2M tokens: languages, as published", "cpu", "{}", "multilingual"),
            Where("languages, tuned", "cpu", "{}_tuned", "multilingual"),
            Where("images and text, as published", "cpu", "{}", "multimodal"),
            Where("images and text, tuned", "cpu", "{}_tuned_lr", "multimodal"),
        ),
        (
            Difference("Dense to no layer", "dense", "null"),
            Difference("X-MoE to no layer", "xmoe_8", "null"),
            *(row for row in MAIN if row.label.startswith(("X-MoE to Dense", "X-MoE, 32"))),
            Difference("MH-MoE, equal FLOPs, to no layer", "mhmoe_8_compute", "null"),
            Difference("... to X-MoE", "mhmoe_8_compute", "xmoe_8"),
            Difference("MH-MoE, equal parameters, to no layer", "mhmoe_8_parameters", "null"),
            Difference("... to X-MoE", "mhmoe_8_parameters", "xmoe_8"),
        ),
    ),
    "v2": Glance(
        (
            Where("2M tokens, tuned: [Table 1](../results/v2_table1_perplexity.md)", "cpu", "v2_{}_tuned"),
            Where(
                "tuned: [Table 2, shared expert](../results/v2_table2_shared_expert.md)", "cpu", "v2_{}_shared_tuned"
            ),
            Where("tuned: [Table 3, BitNet](../results/v2_table3_bitnet.md)", "cpu", "v2_{}_bitnet_tuned"),
        ),
        (
            Difference("SMoE to Dense", "smoe", "dense"),
            Difference("fine-grained SMoE to SMoE", "fine", "smoe"),
            Difference("MH-MoE, 2 heads, to no layer", "mhmoe_h2", "null"),
            Difference("... to Dense", "mhmoe_h2", "dense"),
            Difference("... to SMoE", "mhmoe_h2", "smoe"),
            Difference("MH-MoE, 3 heads, to SMoE", "mhmoe_h3", "smoe"),
        ),
    ),
    "parts": Glance(
        (Where("2M tokens, tuned", "cpu", "{}"),),
        (
            Difference("two heads for four, at equal FLOPs, parameters and k", "why_h2_k4", "why_k4"),
            Difference("two heads, to X-MoE with k = 2 and the norm", "why_h2_k4", "why_xmoe"),
            Difference("four heads with k = 8, to two with k = 4", "why_k8", "why_h2_k4"),
            *(
                Difference(f"{word} heads, to two", f"mhmoe_8_compute_h{heads}_tuned", "mhmoe_8_compute_tuned")
                for word, heads in (("four", 4), ("six", 6), ("eight", 8), ("twelve", 12))
            ),
            Difference("splitting alone, to X-MoE", "mhmoe_8_compute_n0_tuned", "xmoe_8_there_tuned"),
            Difference("head and merge layers alone, to X-MoE", "mhmoe_8_compute_h1_tuned", "xmoe_8_there_tuned"),
            Difference("splitting on top of them", "mhmoe_8_compute_tuned", "mhmoe_8_compute_h1_tuned"),
            *(
                Difference(
                    f"{word} head and merge layers, to one, equal parameters",
                    f"mhmoe_8_parameters_n{depth}_tuned",
                    "mhmoe_8_parameters_tuned",
                )
                for word, depth in (("no", 0), ("two", 2), ("three", 3))
            ),
            Difference("heads around X-MoE with SwiGLU", "xmoe_swiglu_heads_tuned", "xmoe_swiglu_tuned"),
            Difference("v2: both layers on top", "v2_mhmoe_h2_n0_on_top_tuned", "v2_mhmoe_h2_n0_tuned"),
            Difference("v2: both, equal FLOPs, to splitting alone", "v2_mhmoe_h2_tuned", "v2_mhmoe_h2_n0_tuned"),
            Difference("v2: both, to neither, the experts alike", "v2_mhmoe_h2_tuned", "v2_mhmoe_h2_neither_tuned"),
            Difference("v2: the head layer alone, to neither", "v2_mhmoe_h2_head_tuned", "v2_mhmoe_h2_neither_tuned"),
            Difference("v2: the merge layer alone, to neither", "v2_mhmoe_h2_merge_tuned", "v2_mhmoe_h2_neither_tuned"),
            Difference("v2: both around SMoE", "v2_smoe_mlp_there_tuned", "v2_smoe_there_tuned"),
            Difference("v2: both around fine-grained SMoE", "v2_fine_mlp_there_tuned", "v2_fine_there_tuned"),
        ),
    ),
}
Ledger = Mapping[tuple[str, str, str, str], Mapping[str, str]]


def ledger(path: Path = RESULTS / "claims.csv") -> Ledger:
    """Claims on test perplexity by (scale, task, first, second), whichever of the two they name first."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["quantity"] == "test perplexity"]
    found: dict[tuple[str, str, str, str], Mapping[str, str]] = {}
    for row in rows:  # a claim that is made of the two in the other order says the opposite of these
        opposite = OPPOSITE.get(row["verdict"], row["verdict"])
        found[row["scale"], row["task"], row["second"], row["first"]] = {"verdict": opposite}
    return found | {(row["scale"], row["task"], row["first"], row["second"]): row for row in rows}


def tables(names: Sequence[str]) -> dict[str, str]:
    """Those glances as Markdown, by name."""
    judged = ledger()
    records: dict[str, list[Record]] = {}
    for name in names:
        for column in GLANCES[name].columns:
            if column.scale not in records:
                records[column.scale] = final(Records(SCALES[column.scale]))
    return {name: glance_markdown(GLANCES[name], records, judged) for name in names}


def final(records: Records) -> list[Record]:
    """Without the short runs that choose learning rates."""
    return [r for name, r in records.by_name.items() if name == f"{r.task}-{r.system}-seed{r.seed}"]


def glance_markdown(glance: Glance, records: Mapping[str, Sequence[Record]], judged: Ledger) -> str:
    headings = [
        Column("label", "test perplexity"),
        *([Column("paper", "v1")] if glance.printed else []),
        *(Column(column.heading, column.heading) for column in glance.columns),
    ]
    rows = [
        {
            "label": row.label,
            "paper": _printed(row, glance, judged),
            **{column.heading: cell(column, row, records[column.scale], judged) for column in glance.columns},
        }
        for row in glance.rows
    ]
    return table_markdown(headings, rows)


def cell(where: Where, row: Difference, records: Sequence[Record], judged: Ledger) -> str:
    first, second = (where.form.format(name) for name in (row.first, row.second))
    claim = Claim(statement=row.label, source="", better=first, worse=second, task=where.task)
    found = measure(claim, records, where.scale, resample=False)
    if found.n < 2:
        return "one seed" if found.n else "-"
    mean, low, high = found.percent
    verdict = judged.get((where.scale, where.task, first, second), {}).get("verdict", "")
    return f"{mean:+.1f}% [{low:.1f}, {high:.1f}] ({found.n}) {WORDS.get(verdict, '')}".rstrip()


def _printed(row: Difference, glance: Glance, judged: Ledger) -> str:
    for column in glance.columns:
        first, second = (column.form.format(name) for name in (row.first, row.second))
        claim = judged.get((column.scale, column.task, first, second), {})
        if claim.get("paper_first"):
            return f"{100 * (float(claim['paper_first']) / float(claim['paper_second']) - 1):+.1f}%"
    return "-"
