"""The zero-shot tables: the models of Table 1, scored, and what the paper claims of them.

Each claim is judged twice, by the mean accuracy that the paper prints and by the mean advantage of right answers
over wrong ones, which moves where accuracy is still near chance.
"""

from collections.abc import Sequence
from typing import Any

from analysis.claims.measured import MeasuredClaim, Side
from analysis.zero_shot.results import ZeroShotScores
from analysis.zero_shot.scores import Score, mean_accuracy, mean_advantage
from experiments.kinds.score_table import ScoredRow, ScoreTable
from experiments.layers import HEADS
from experiments.paper import paper_number
from experiments.runner.measurements import Measurement
from experiments.systems import OURS, compared
from experiments.table1 import OF_32
from experiments.testbed import TUNED

_PAPER, _FOLLOW_UP = "", "v2, for v1's sizes"
# (better, worse, matching, source); the paper's own claims come from its table.
PAIRS = (
    ("xmoe_8", "dense", "", _PAPER),
    ("mhmoe_8_parameters", "xmoe_8", "parameters", _PAPER),
    ("mhmoe_32_parameters", "xmoe_32", "parameters", _PAPER),
    ("mhmoe_8_compute", "xmoe_8", "compute", _FOLLOW_UP),
    ("mhmoe_32_compute", "xmoe_32", "compute", _FOLLOW_UP),
    ("mhmoe_8_parameters", f"xmoe_8_k{HEADS}", "parameters", OURS),
    ("xmoe_8_tuned", "dense_tuned", "", _PAPER),
    ("mhmoe_8_parameters_tuned", "xmoe_8_tuned", "parameters", _PAPER),
    ("mhmoe_32_parameters_tuned", "xmoe_32_tuned", "parameters", _PAPER),
    ("mhmoe_8_compute_tuned", "xmoe_8_tuned", "compute", _FOLLOW_UP),
    ("mhmoe_32_compute_tuned", "xmoe_32_tuned", "compute", _FOLLOW_UP),
)


def zero_shot_table(
    task: str,
    *,
    slug: str,
    title: str,
    where: str,
    source: str,
    printed: str,
    measurement: Measurement[ZeroShotScores],
    scores: Sequence[Score],
) -> ScoreTable:
    """The table of a pre-training task; `printed` is its key in paper.json, `source` its name in the paper.

    where: of the claims, such as "on XNLI".
    """
    rows = (
        *(
            ScoredRow(system=system, paper_scores=_flat((printed, "_".join(path))) if path else ())
            for system, path in compared()
        ),
        *(ScoredRow(system=system) for system in (*TUNED.systems, *OF_32)),
    )
    row_of = {row.system.name: row for row in rows}

    def claims(better: str, worse: str, matching: str, said_by: str) -> tuple[MeasuredClaim, MeasuredClaim]:
        ours, others = row_of[better], row_of[worse]
        accuracy, advantage = mean_accuracy(scores), mean_advantage(scores)
        labels = ours.system.label, others.system.label
        paper = None
        if ours.paper_scores and others.paper_scores:
            paper = ours.paper_scores[-1], others.paper_scores[-1]
        common: dict[str, Any] = {"matching": matching, "measurement": measurement.name}
        common["arm"] = ours.system.arm
        return (
            MeasuredClaim(
                statement=f"{labels[0]} has higher mean accuracy than {labels[1]} {where}",
                source=said_by or source,
                paper=paper,
                higher=Side(system=better, quantity=accuracy),
                lower=Side(system=worse, quantity=accuracy),
                **common,
            ),
            MeasuredClaim(
                statement=f"{labels[0]} gives right answers a greater advantage than {labels[1]} {where}",
                source="ours: the finer measure",
                higher=Side(system=better, quantity=advantage),
                lower=Side(system=worse, quantity=advantage),
                **common,
            ),
        )

    return ScoreTable(
        slug=slug,
        title=title,
        task=task,
        rows=rows,
        scores=scores,
        measurements=(measurement,),
        claims=[claim for pair in PAIRS for claim in claims(*pair)],
    )


def _flat(path: Sequence[str | int]) -> list[float]:
    """The paper's values of a row; where it prints two accuracies of a task, one after the other."""
    values = paper_number(path)
    return [float(number) for value in values for number in (value if isinstance(value, list) else [value])]
