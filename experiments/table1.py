"""Table 1 of a pre-training task: perplexity of Dense, X-MoE and MH-MoE with 8 and 32 experts, and its claims.

The paper's rows have no control: MH-MoE at its size (`parameters`) makes h times X-MoE's selections and has h
times its expert FLOPs, so X-MoE with k = h stands beside it here, MH-MoE of equal FLOPs (`compute`, v2), the model
without the layer, and other ways to spend as much. Two arms: as published, and tuned at equal budget (tuning.py).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from analysis.claims.rules import Claim
from experiments.claims import lower
from experiments.kinds.table import Row, Table
from experiments.layers import HEADS
from experiments.paper import paper_pair
from experiments.systems import OURS, compared, controls, xmoe
from experiments.testbed import RAISED_AT, TUNED
from experiments.tuning import at_best, tuned

CONTROL = f"xmoe_8_k{HEADS}"
FOLLOW_UP = "v2, for v1's Table 1"
OF_32 = [tuned(sized, 32, seeds=3) for sized in ("mhmoe_{}_compute", "mhmoe_{}_parameters")]
# As many choices and FLOPs as tuned MH-MoE at equal parameters has with two heads and k = 2.
TUNED_CONTROL = replace(
    at_best("xmoe_{}", CONTROL, f"X-MoE, 8 experts, k = {HEADS} (control)", lambda _: xmoe(8, HEADS), 3),
    role="control",
    num_experts=8,
)


def table1(task: str, *, slug: str, title: str, where: str = "", notes: Sequence[str] = ()) -> Table:
    """The table of a task that the paper prints; `where` ends the sentence of every claim."""
    printed = ("v1_table1_perplexity", task)
    rows = (
        *(Row(system=system, paper=(*printed, *path) if path else ()) for system, path in compared()),
        *(Row(system=system) for system in controls()),
        *(Row(system=system, reference=TUNED.few.name) for system in (*TUNED.systems, *OF_32, TUNED_CONTROL)),
    )
    row_of = {row.system.name: row for row in rows}

    def below(better: str, worse: str, source: str = "v1 Table 1", **more: Any) -> Claim:
        """`better` has lower perplexity than `worse`; the paper's two values stand beside it if it prints both."""
        first, second = row_of[better], row_of[worse]
        statement = f"{first.system.label} has lower perplexity than {second.system.label}{where}"
        paper = paper_pair(first.paper, second.paper)
        return lower(statement, source, first.system, second.system, paper=paper, **more)

    raised: dict[str, Any] = {"raised_at": RAISED_AT if task == "english" else ()}
    return Table(
        slug=slug,
        title=title,
        task=task,
        rows=rows,
        reference="xmoe_8",
        claims=(
            below("xmoe_8", "dense"),
            below("xmoe_32", "dense"),
            below("xmoe_32", "xmoe_8", control="experts"),
            below("mhmoe_8_parameters", "xmoe_8"),
            below("mhmoe_32_parameters", "xmoe_32"),
            below("mhmoe_32_parameters", "mhmoe_8_parameters", control="experts"),
            below("mhmoe_8_compute", "xmoe_8", FOLLOW_UP),
            below("mhmoe_32_compute", "xmoe_32", FOLLOW_UP),
            below("mhmoe_32_compute", "mhmoe_8_compute", FOLLOW_UP, control="experts"),
            below("mhmoe_8_parameters", CONTROL, OURS),
            below(CONTROL, "xmoe_8", OURS),
            below("xmoe_8_tuned", "dense_tuned", **raised),
            below("xmoe_32_tuned", "xmoe_8_tuned", control="experts", **raised),
            below("mhmoe_8_parameters_tuned", "xmoe_8_tuned", **raised),
            below("mhmoe_32_parameters_tuned", "xmoe_32_tuned"),
            below("mhmoe_8_parameters_tuned", TUNED_CONTROL.name, OURS),
            below(TUNED_CONTROL.name, "xmoe_8_tuned", OURS),
            below("mhmoe_32_parameters_tuned", "mhmoe_8_parameters_tuned", control="experts"),
            below("mhmoe_8_compute_tuned", "xmoe_8_tuned", FOLLOW_UP, **raised),
            below("mhmoe_32_compute_tuned", "xmoe_32_tuned", FOLLOW_UP),
            below("mhmoe_32_compute_tuned", "mhmoe_8_compute_tuned", FOLLOW_UP, control="experts"),
            below("mhmoe_8_compute_tuned", "fine_8_tuned", "v2 Table 1, tuned", **raised),
        ),
        notes=notes,
    )
