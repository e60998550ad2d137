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
from experiments.kinds.testbed import Arm
from experiments.layers import HEADS
from experiments.paper import paper_pair
from experiments.scales import MULTIMODAL
from experiments.system import System
from experiments.systems import OURS, compared, controls, xmoe
from experiments.testbed import RAISED_AT, TUNED
from experiments.tuning import at_best, tuned

CONTROL = f"xmoe_8_k{HEADS}"
FOLLOW_UP = "v2, for v1's Table 1"
# Where MH-MoE and X-MoE, tuned, were run with two more seeds after a look at three (docs/how/ledger.md).
RAISED_FURTHER = (*RAISED_AT, "long")
OF_32 = [tuned(sized, 32, seeds=3) for sized in ("mhmoe_{}_compute", "mhmoe_{}_parameters")]
# As many choices and FLOPs as tuned MH-MoE at equal parameters has with two heads and k = 2.
TUNED_CONTROL = replace(
    at_best("xmoe_{}", CONTROL, f"X-MoE, 8 experts, k = {HEADS} (control)", lambda _: xmoe(8, HEADS), 3),
    role="control",
    num_experts=8,
)


def table1(
    task: str,
    *,
    slug: str,
    title: str,
    where: str = "",
    notes: Sequence[str] = (),
    arm: Arm = TUNED,
    also: Sequence[System] = (*OF_32, TUNED_CONTROL),
) -> Table:
    """The table of a task that the paper prints; `where` ends the sentence of every claim. arm: the tuned one; also:
    what else is tuned. Claims of what the table lacks are left out."""
    printed = ("v1_table1_perplexity", task)
    rows = (
        *(Row(system=system, paper=(*printed, *path) if path else ()) for system, path in compared()),
        *(Row(system=system) for system in controls()),
        *(Row(system=system, reference=arm.few.name) for system in (*arm.systems, *also)),
    )
    row_of = {row.system.name: row for row in rows}

    def below(better: str, worse: str, source: str = "v1 Table 1", **more: Any) -> Claim:
        """`better` has lower perplexity than `worse`; the paper's two values stand beside it if it prints both."""
        first, second = row_of[better], row_of[worse]
        statement = f"{first.system.label} has lower perplexity than {second.system.label}{where}"
        paper = paper_pair(first.paper, second.paper)
        return lower(statement, source, first.system, second.system, paper=paper, **more)

    raised: dict[str, Any] = {"raised_at": RAISED_AT if task in ("english", MULTIMODAL) else ()}
    further: dict[str, Any] = {"raised_at": RAISED_FURTHER} if task == "english" else raised
    published: dict[str, Any] = {"raised_at": RAISED_AT if task == "english" else ()}
    tuned = arm.few.name.removeprefix("xmoe_8")
    of_arm = (
        ("xmoe_8", "dense", "v1 Table 1", raised),
        ("xmoe_32", "xmoe_8", "v1 Table 1", {"control": "experts", **raised}),
        ("mhmoe_8_parameters", "xmoe_8", "v1 Table 1", further),
        ("mhmoe_32_parameters", "xmoe_32", "v1 Table 1", {}),
        ("mhmoe_8_parameters", CONTROL, OURS, {}),
        (CONTROL, "xmoe_8", OURS, {}),
        ("mhmoe_32_parameters", "mhmoe_8_parameters", "v1 Table 1", {"control": "experts"}),
        ("mhmoe_8_compute", "xmoe_8", FOLLOW_UP, further),
        ("mhmoe_32_compute", "xmoe_32", FOLLOW_UP, {}),
        ("mhmoe_32_compute", "mhmoe_8_compute", FOLLOW_UP, {"control": "experts"}),
        ("mhmoe_8_compute", "fine_8", "v2 Table 1, tuned", raised),
    )
    return Table(
        slug=slug,
        title=title,
        task=task,
        rows=rows,
        reference="xmoe_8",
        claims=(
            below("xmoe_8", "dense"),
            below("xmoe_32", "dense", **published),
            below("xmoe_32", "xmoe_8", control="experts", **published),
            below("mhmoe_8_parameters", "xmoe_8"),
            below("mhmoe_32_parameters", "xmoe_32"),
            below("mhmoe_32_parameters", "mhmoe_8_parameters", control="experts"),
            below("mhmoe_8_compute", "xmoe_8", FOLLOW_UP),
            below("mhmoe_32_compute", "xmoe_32", FOLLOW_UP),
            below("mhmoe_32_compute", "mhmoe_8_compute", FOLLOW_UP, control="experts"),
            below("mhmoe_8_parameters", CONTROL, OURS),
            below(CONTROL, "xmoe_8", OURS),
            *(
                below(f"{better}{tuned}", f"{worse}{tuned}", source, **more)
                for better, worse, source, more in of_arm
                if {f"{better}{tuned}", f"{worse}{tuned}"} <= row_of.keys()
            ),
        ),
        notes=notes,
    )
