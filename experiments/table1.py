"""Table 1 of a pre-training task: perplexity of Dense, X-MoE and MH-MoE with 8 and 32 experts, and its claims.

The paper's rows have no control: MH-MoE at its size (`parameters`) makes h times X-MoE's selections and has h
times its expert FLOPs, so X-MoE with k = h stands beside it here, MH-MoE of equal FLOPs (`compute`, v2), the model
without the layer, and other ways to spend as much. Two arms: as published, and tuned at equal budget (tuning.py).
"""

from collections.abc import Sequence

from analysis.claims.rules import Claim
from experiments.kinds.table import Row, Table
from experiments.layers import HEADS
from experiments.paper import paper_number
from experiments.systems import OURS, compared, controls
from experiments.testbed import TUNED
from experiments.tuning import tuned

CONTROL = f"xmoe_8_k{HEADS}"
FOLLOW_UP = "v2, for v1's Table 1"
OF_32 = [tuned(sized, 32, seeds=3) for sized in ("mhmoe_{}_compute", "mhmoe_{}_parameters")]


def table1(task: str, *, slug: str, title: str, where: str = "", notes: Sequence[str] = ()) -> Table:
    """The table of a task that the paper prints; `where` ends the sentence of every claim."""
    printed = ("v1_table1_perplexity", task)
    rows = (
        *(Row(system=system, paper=(*printed, *path) if path else ()) for system, path in compared()),
        *(Row(system=system) for system in controls()),
        *(Row(system=system, reference=TUNED.few.name) for system in (*TUNED.systems, *OF_32)),
    )
    row_of = {row.system.name: row for row in rows}

    def lower(
        better: str, worse: str, matching: str = "", source: str = "v1 Table 1", control: str = "mixture"
    ) -> Claim:
        """`better` has lower perplexity than `worse`; the paper's two values stand beside it if it prints both."""
        pair = row_of[better], row_of[worse]
        return Claim(
            statement=f"{pair[0].system.label} has lower perplexity than {pair[1].system.label}{where}",
            source=source,
            better=better,
            worse=worse,
            matching=matching,
            paper=(paper_number(pair[0].paper), paper_number(pair[1].paper)) if all(r.paper for r in pair) else None,
            arm=pair[0].system.arm,
            control=control,
        )

    return Table(
        slug=slug,
        title=title,
        task=task,
        rows=rows,
        reference="xmoe_8",
        claims=(
            lower("xmoe_8", "dense"),
            lower("xmoe_32", "dense"),
            lower("xmoe_32", "xmoe_8", control="experts"),
            lower("mhmoe_8_parameters", "xmoe_8", "parameters"),
            lower("mhmoe_32_parameters", "xmoe_32", "parameters"),
            lower("mhmoe_32_parameters", "mhmoe_8_parameters", "parameters", control="experts"),
            lower("mhmoe_8_compute", "xmoe_8", "compute", FOLLOW_UP),
            lower("mhmoe_32_compute", "xmoe_32", "compute", FOLLOW_UP),
            lower("mhmoe_32_compute", "mhmoe_8_compute", "compute", FOLLOW_UP, control="experts"),
            lower("mhmoe_8_parameters", CONTROL, "parameters", OURS),
            lower(CONTROL, "xmoe_8", source=OURS),
            lower("xmoe_8_tuned", "dense_tuned"),
            lower("xmoe_32_tuned", "xmoe_8_tuned", control="experts"),
            lower("mhmoe_8_parameters_tuned", "xmoe_8_tuned", "parameters"),
            lower("mhmoe_32_parameters_tuned", "xmoe_32_tuned", "parameters"),
            lower("mhmoe_32_parameters_tuned", "mhmoe_8_parameters_tuned", "parameters", control="experts"),
            lower("mhmoe_8_compute_tuned", "xmoe_8_tuned", "compute", FOLLOW_UP),
            lower("mhmoe_32_compute_tuned", "xmoe_32_tuned", "compute", FOLLOW_UP),
            lower("mhmoe_32_compute_tuned", "mhmoe_8_compute_tuned", "compute", FOLLOW_UP, control="experts"),
            lower("mhmoe_8_compute_tuned", "fine_8_tuned", "compute", "v2 Table 1, tuned"),
        ),
        notes=notes,
    )
