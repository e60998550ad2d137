"""The zero-shot tables: the models of Table 1, scored, and what the paper claims of them.

Each claim is judged twice, by the mean accuracy that the paper prints and by the mean advantage of right answers
over wrong ones, which moves where accuracy is still near chance.
"""

from collections.abc import Sequence
from typing import Any

from analysis.claims.measured import MeasuredClaim, Quantity
from analysis.zero_shot.results import ZeroShotScores
from analysis.zero_shot.scores import Score, mean_accuracy, mean_advantage
from experiments.claims import higher
from experiments.kinds.score_table import ScoredRow, ScoreTable
from experiments.layers import HEADS
from experiments.paper import paper_number
from experiments.runner.measurements import Measurement
from experiments.systems import OURS, compared
from experiments.table1 import OF_32
from experiments.testbed import TUNED

_PAPER, _FOLLOW_UP = "", "v2, for v1's sizes"
# (better, worse, source); the paper's own claims come from its table.
PAIRS = (
    ("xmoe_8", "dense", _PAPER),
    ("mhmoe_8_parameters", "xmoe_8", _PAPER),
    ("mhmoe_32_parameters", "xmoe_32", _PAPER),
    ("mhmoe_8_compute", "xmoe_8", _FOLLOW_UP),
    ("mhmoe_32_compute", "xmoe_32", _FOLLOW_UP),
    ("mhmoe_8_parameters", f"xmoe_8_k{HEADS}", OURS),
    ("xmoe_8_tuned", "dense_tuned", _PAPER),
    ("mhmoe_8_parameters_tuned", "xmoe_8_tuned", _PAPER),
    ("mhmoe_32_parameters_tuned", "xmoe_32_tuned", _PAPER),
    ("mhmoe_8_compute_tuned", "xmoe_8_tuned", _FOLLOW_UP),
    ("mhmoe_32_compute_tuned", "xmoe_32_tuned", _FOLLOW_UP),
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

    def claims(better: str, worse: str, said_by: str) -> tuple[MeasuredClaim, MeasuredClaim]:
        ours, others = row_of[better].system, row_of[worse].system
        printed = [row_of[name].paper_scores[-1:] for name in (better, worse)]

        def above(what: str, by: str, quantity: Quantity[ZeroShotScores], **more: Any) -> MeasuredClaim:
            statement = f"{ours.label} {what} than {others.label} {where}"
            return higher(statement, by, measurement, (ours, quantity), (others, quantity), **more)

        paper = (printed[0][0], printed[1][0]) if all(printed) else None
        return (
            above("has higher mean accuracy", said_by or source, mean_accuracy(scores), paper=paper),
            above("gives right answers a greater advantage", "ours: the finer measure", mean_advantage(scores)),
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
