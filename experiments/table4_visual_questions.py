"""Table 4, its first half: questions about images, answered by the masked multi-modal models after fine-tuning.

Paper (v1, Table 4, VQAv2 test-dev): Dense 65.9; X-MoE 68.4; MH-MoE 70.1, with 8 experts, fine-tuned. Here the questions
are easy-VQA's, answered by filling in a mask: by models that were fine-tuned on 12,800 others, and by the same ones as
they come from pre-training, whose text has such questions with their answers, and which answer hardly better with the
image than without. So claims are judged after fine-tuning, and the ledger asks first whether an image is used there.
The null, a model without the layer, answers as many rightly: what the layer is worth is not seen.
NLVR2, whose photographs are not free, and captions are not built.
Cost beyond Table 1 (masked multi-modal): cpu two minutes a model. Run: make reproduce-table4 SCALE=cpu
"""

from typing import Any

from analysis.claims.measured import MeasuredClaim
from analysis.visual_questions import ACCURACY, BLIND_ACCURACY, LIKELIHOOD
from experiments.claims import higher
from experiments.kinds.visual_questions import FINE_TUNED, VISUAL_QUESTIONS, AnsweredRow, VisualQuestions
from experiments.layers import HEADS
from experiments.paper import paper_number
from experiments.scales import MULTIMODAL
from experiments.system import System
from experiments.systems import OURS, compared, null
from experiments.testbed import TUNED_HERE

_PRINTED = "v1_table4_vision_language"
_IN_PAPER = {"dense": "dense", "xmoe_8": "xmoe_8", "mhmoe_8_parameters": "mhmoe_8"}
_OF_8 = [system for system, _ in compared() if system.num_experts != 32]


def _printed(system: System) -> float | None:
    """Of the system, whatever its settings here."""
    printed = _IN_PAPER.get(system.name.removesuffix("_tuned_lr"))
    return float(paper_number((_PRINTED, printed, 0))) if printed else None


ROWS = tuple(AnsweredRow(system=s, paper=_printed(s)) for s in (null(), *_OF_8, *TUNED_HERE.systems))
_COMPARED = (
    ("xmoe_8", "dense", "v1 Table 4"),
    ("mhmoe_8_parameters", "xmoe_8", "v1 Table 4"),
    ("mhmoe_8_compute", "xmoe_8", "v2, for v1's Table 4"),
    ("mhmoe_8_parameters", f"xmoe_8_k{HEADS}", OURS),
    ("xmoe_8_tuned_lr", "null_tuned_lr", "ours: what the layer is worth here"),
    ("xmoe_8_tuned_lr", "dense_tuned_lr", "v1 Table 4"),
    ("mhmoe_8_parameters_tuned_lr", "xmoe_8_tuned_lr", "v1 Table 4"),
    ("mhmoe_8_compute_tuned_lr", "xmoe_8_tuned_lr", "v2, for v1's Table 4"),
)
_ROW_OF = {row.system.name: row for row in ROWS}


def _claims(better: str, worse: str, source: str) -> tuple[MeasuredClaim, MeasuredClaim]:
    """Judged by the accuracy that the paper prints, and by the likelihood of right answers, which is finer."""
    ours, theirs = _ROW_OF[better], _ROW_OF[worse]

    def above(what: str, by: str, quantity: Any, **more: Any) -> MeasuredClaim:
        statement = f"{ours.system.label} {what} than {theirs.system.label}"
        return higher(statement, by, FINE_TUNED, (ours.system, quantity), (theirs.system, quantity), **more)

    paper = (ours.paper, theirs.paper) if ours.paper and theirs.paper else None
    return (
        above("answers more questions about images rightly", source, ACCURACY, paper=paper),
        above("finds right answers about images likelier", "ours: the finer measure", LIKELIHOOD),
    )


def _sees(name: str) -> MeasuredClaim:
    """A control, judged without another one: where it does not hold, the page says nothing of images."""
    system = _ROW_OF[name].system
    statement = f"{system.label} answers more questions rightly with the image than without"
    return higher(statement, OURS, FINE_TUNED, (system, ACCURACY), (system, BLIND_ACCURACY), control="")


PAGE = VisualQuestions(
    slug="table4_visual_questions",
    title="Table 4: questions about images",
    task=MULTIMODAL,
    rows=ROWS,
    measurements=(FINE_TUNED, VISUAL_QUESTIONS),
    claims=[
        *(_sees(name) for name in ("dense_tuned_lr", "xmoe_8_tuned_lr", "mhmoe_8_compute_tuned_lr")),
        *(claim for better, worse, source in _COMPARED for claim in _claims(better, worse, source)),
    ],
)
