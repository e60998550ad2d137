"""Table 1 (English): perplexity of Dense, X-MoE and MH-MoE with 8 and 32 experts.

Paper (v1, Table 1): Dense 16.23; X-MoE 14.82 and 11.96; MH-MoE 12.72 and 10.28. The paper's rows have no
control: MH-MoE at its size (`parameters`) makes h times X-MoE's selections and has h times its expert
FLOPs, so X-MoE with k = h stands beside it here, and MH-MoE of equal FLOPs (`compute`, v2).
Cost: smoke 3 minutes, cpu about two hours on two cores. Run: make reproduce-table1 SCALE=cpu
"""

from analysis.claims import Claim
from experiments.recipes import HEADS, dense, mhmoe, paper_numbers, xmoe
from experiments.schema import Row, Table

STEM = "table1_perplexity"
PRINTED = ("v1_table1_perplexity", "english")

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


def _lower(better: str, worse: str, source: str, reading: str = "", printed: tuple[str, str] | None = None) -> Claim:
    """`better` has lower perplexity than `worse`; `printed` names the paper's two values."""
    labels = {row.system.name: row.system.label for row in ROWS}
    numbers = paper_numbers()[PRINTED[0]][PRINTED[1]]

    def value(name: str) -> float:
        system, _, experts = name.partition("_")
        return numbers[system][experts] if experts else numbers[system]

    return Claim(
        stem=STEM,
        statement=f"{labels[better]} has lower perplexity than {labels[worse]}",
        source=source,
        better=better,
        worse=worse,
        reading=reading,
        paper=(value(printed[0]), value(printed[1])) if printed else None,
    )


_PAPER, _CONTROL, _FOLLOW_UP = "v1 Table 1", "ours: the control that the papers lack", "v2, for v1's Table 1"

EXPERIMENT = Table(
    stem=STEM,
    title="Table 1 (English): test perplexity",
    rows=ROWS,
    reference="xmoe_8",
    claims=(
        _lower("xmoe_8", "dense", _PAPER, printed=("xmoe_8", "dense")),
        _lower("xmoe_32", "dense", _PAPER, printed=("xmoe_32", "dense")),
        _lower("xmoe_32", "xmoe_8", _PAPER, printed=("xmoe_32", "xmoe_8")),
        _lower("mhmoe_8_parameters", "xmoe_8", _PAPER, "parameters", ("mhmoe_8", "xmoe_8")),
        _lower("mhmoe_32_parameters", "xmoe_32", _PAPER, "parameters", ("mhmoe_32", "xmoe_32")),
        _lower("mhmoe_32_parameters", "mhmoe_8_parameters", _PAPER, "parameters", ("mhmoe_32", "mhmoe_8")),
        _lower("mhmoe_8_compute", "xmoe_8", _FOLLOW_UP, "compute"),
        _lower("mhmoe_32_compute", "xmoe_32", _FOLLOW_UP, "compute"),
        _lower("mhmoe_32_compute", "mhmoe_8_compute", _FOLLOW_UP, "compute"),
        _lower("mhmoe_8_parameters", f"xmoe_8_k{HEADS}", _CONTROL, "parameters"),
        _lower(f"xmoe_8_k{HEADS}", "xmoe_8", _CONTROL),
    ),
)
