"""Table 1 (multilingual): perplexity of Dense, X-MoE and MH-MoE trained on fourteen languages.

Paper (v1, Table 1): Dense 8.56; X-MoE 7.19 and 6.02; MH-MoE 6.26 and 5.09, on Wikipedia in the languages of
XNLI without Arabic. Here languages are mixed by XLM's smoothed sampling with alpha = 0.7, and the text that
was translated by machine is left out (mhmoe/multilingual.py).
Cost: cpu about an hour and a half on two cores. Run: make reproduce-table1 TASK=multilingual SCALE=cpu
"""

from analysis.claims import Claim
from experiments.recipes import HEADS, dense, mhmoe, paper_numbers, xmoe
from experiments.schema import Row, Table

STEM = "table1_multilingual"
TASK = "multilingual"
PRINTED = ("v1_table1_perplexity", TASK)

ROWS = (
    Row(system=dense(), paper=(*PRINTED, "dense")),
    Row(system=xmoe(8), paper=(*PRINTED, "xmoe", "8")),
    Row(system=xmoe(8, top_k=HEADS)),
    Row(system=mhmoe(8, "parameters"), paper=(*PRINTED, "mhmoe", "8")),
    Row(system=mhmoe(8, "compute")),
    Row(system=xmoe(32, seeds=3), paper=(*PRINTED, "xmoe", "32")),
    Row(system=mhmoe(32, "parameters", seeds=3), paper=(*PRINTED, "mhmoe", "32")),
    Row(system=mhmoe(32, "compute", seeds=3)),
)


def _lower(better: str, worse: str, reading: str = "") -> Claim:
    labels = {row.system.name: row.system.label for row in ROWS}
    paths = {row.system.name: row.paper for row in ROWS}

    def printed(name: str) -> float | None:
        value = paper_numbers()
        for key in paths[name]:
            value = value[key]  # pyright: ignore[reportArgumentType]
        return value if paths[name] else None  # pyright: ignore[reportReturnType]

    values = printed(better), printed(worse)
    return Claim(
        stem=STEM,
        statement=f"{labels[better]} has lower perplexity than {labels[worse]} in fourteen languages",
        source="v1 Table 1" if None not in values else "ours, for v1's Table 1",
        better=better,
        worse=worse,
        reading=reading,
        paper=(values[0], values[1]) if values[0] is not None and values[1] is not None else None,
        task=TASK,
    )


EXPERIMENT = Table(
    stem=STEM,
    title="Table 1 (multilingual): test perplexity",
    task=TASK,
    rows=ROWS,
    reference="xmoe_8",
    claims=(
        _lower("xmoe_8", "dense"),
        _lower("xmoe_32", "dense"),
        _lower("xmoe_32", "xmoe_8"),
        _lower("mhmoe_8_parameters", "xmoe_8", "parameters"),
        _lower("mhmoe_32_parameters", "xmoe_32", "parameters"),
        _lower("mhmoe_32_parameters", "mhmoe_8_parameters", "parameters"),
        _lower("mhmoe_8_compute", "xmoe_8", "compute"),
        _lower("mhmoe_32_compute", "xmoe_32", "compute"),
        _lower("mhmoe_8_parameters", f"xmoe_8_k{HEADS}", "parameters"),
        _lower(f"xmoe_8_k{HEADS}", "xmoe_8"),
    ),
    notes=(
        "Languages: bg, de, el, en, es, fr, hi, ru, sw, th, tr, ur, vi, zh; the test text has the same number of "
        "characters of each. Perplexity compares systems on one language and not languages with each other, whose "
        "tokens differ in length.",
    ),
)
