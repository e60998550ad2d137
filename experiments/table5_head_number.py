"""Table 5: perplexity against the number of heads, 8 experts.

Paper (v1, Table 5): X-MoE 14.82; MH-MoE 12.87, 12.72, 12.41, 12.95, 13.28 with 2, 4, 6, 8, 12 heads: best at
6. Its sizes are those of `parameters`, under which every head adds the expert FLOPs of a whole X-MoE; so
each number of heads also stands here with equal FLOPs (`compute`) and beside X-MoE with k = h, as long as
there are h experts to choose.
Cost: smoke 3 minutes, cpu about two and a half hours on two cores, most of it `parameters` with many heads.
Run: make reproduce-table5 SCALE=cpu, or any list of heads: make ablate-heads HEADS="2 3 4" SCALE=cpu
"""

from collections.abc import Sequence

from analysis.claims.rules import Claim
from experiments.claims import lower
from experiments.kinds.routing import EXPERT_ACTIVATION
from experiments.kinds.table import Row, Table
from experiments.kinds.trend import Trend
from experiments.paper import paper_numbers, paper_pair
from experiments.system import System
from experiments.systems import OURS, mhmoe, xmoe
from experiments.testbed import TUNED
from experiments.tuning import tuned
from mhmoe.layers.matching import Matching

PRINTED = "v1_table5_head_number"
EXPERTS = 8
HEADS = (2, 4, 6, 8, 12)
SIZED: dict[str, Matching] = {"equal parameters": "parameters", "equal FLOPs": "compute"}
SOURCES: dict[Matching, str] = {"parameters": "v1 Table 5", "compute": "v1 Table 5, at v2's sizes"}


def _tuned(heads: int, matching: Matching) -> System:
    return tuned(f"mhmoe_{{}}_{matching}", seeds=3, parts=heads)


def rows(heads: Sequence[int]) -> tuple[Row, ...]:
    """X-MoE, then under each matching MH-MoE with each number of heads, then the controls; then the tuned arm."""
    printed = paper_numbers()[PRINTED]["mhmoe"]
    return (
        Row(system=xmoe(EXPERTS), paper=(PRINTED, "xmoe")),
        *(
            Row(
                system=mhmoe(EXPERTS, "parameters", h, seeds=3),
                paper=(PRINTED, "mhmoe", str(h)) if str(h) in printed else (),
            )
            for h in heads
        ),
        *(Row(system=mhmoe(EXPERTS, "compute", h, seeds=3)) for h in heads),
        *(Row(system=xmoe(EXPERTS, top_k=h, seeds=3)) for h in heads if 1 < h <= EXPERTS),
        Row(system=TUNED.few, reference=TUNED.few.name),
        *(Row(system=_tuned(h, matching), reference=TUNED.few.name) for matching in SOURCES for h in heads),
    )


PAPER = {row.system.name: row.paper for row in rows(HEADS)}


def _below(statement: str, better: System, worse: System, source: str = "v1 Table 5") -> Claim:
    paper = paper_pair(PAPER[better.name], PAPER[worse.name])
    return lower(f"{statement} (`{better.matching}`)", source, better, worse, paper=paper)


def trend(heads: Sequence[int]) -> Trend:
    """Both matchings and the control against the number of heads (of choices, for the control)."""
    controls = [(h, xmoe(EXPERTS, top_k=h, seeds=3)) for h in heads if 1 < h <= EXPERTS]
    return Trend(
        x_label="heads h (choices k of the control)",
        panels=("perplexity", "activation", "speed"),
        series={
            **{
                f"MH-MoE, {sized}": [(h, mhmoe(EXPERTS, matching, h, seeds=3)) for h in heads]
                for sized, matching in SIZED.items()
            },
            "X-MoE, k = h (control)": controls,
            "X-MoE": [(1, xmoe(EXPERTS))],
            **{
                f"MH-MoE, {sized}, tuned": [(h, _tuned(h, matching)) for h in heads]
                for sized, matching in SIZED.items()
            },
            "X-MoE, tuned": [(1, TUNED.few)],
        },
    )


def for_heads(heads: Sequence[int]) -> Table:
    """The same comparison for any numbers of heads; a page of its own, and nothing is claimed about it."""
    return Table(
        slug="ablate_heads",
        title="Test perplexity against the number of heads",
        rows=rows(list(dict.fromkeys(heads))),
        reference=f"xmoe_{EXPERTS}",
        trend=trend(list(dict.fromkeys(heads))),
        measurements=(EXPERT_ACTIVATION,),
    )


PAGE = Table(
    slug="table5_head_number",
    title="Table 5: test perplexity against the number of heads",
    rows=rows(HEADS),
    reference=f"xmoe_{EXPERTS}",
    trend=trend(HEADS),
    measurements=(EXPERT_ACTIVATION,),
    claims=(
        *(
            _below(f"MH-MoE with {h} heads lies below X-MoE", mhmoe(EXPERTS, "parameters", h), xmoe(EXPERTS))
            for h in HEADS
        ),
        *(
            _below(f"6 heads lie below {h}", mhmoe(EXPERTS, matching, 6), mhmoe(EXPERTS, matching, h), source)
            for matching, source in SOURCES.items()
            for h in (2, 12)
        ),
        *(
            _below(
                f"MH-MoE with {h} heads lies below X-MoE with k = {h}",
                mhmoe(EXPERTS, "parameters", h),
                xmoe(EXPERTS, top_k=h),
                OURS,
            )
            for h in HEADS
            if h <= EXPERTS
        ),
        *(
            _below(f"Tuned: MH-MoE with {h} heads lies below X-MoE", _tuned(h, matching), TUNED.few, source)
            for matching, source in SOURCES.items()
            for h in HEADS
        ),
        *(
            _below(f"Tuned: 6 heads lie below {h}", _tuned(6, matching), _tuned(h, matching), source)
            for matching, source in SOURCES.items()
            for h in (2, 12)
        ),
    ),
    notes=("With 12 heads there is no control: k cannot exceed the 8 experts.",),
)
