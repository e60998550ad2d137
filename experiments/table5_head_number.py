"""Table 5: perplexity against the number of heads, 8 experts.

Paper (v1, Table 5): X-MoE 14.82; MH-MoE 12.87, 12.72, 12.41, 12.95, 13.28 with 2, 4, 6, 8, 12 heads: best at
6. Its sizes are those of `parameters`, under which every head adds the expert FLOPs of a whole X-MoE; so
each number of heads also stands here with equal FLOPs (`compute`) and beside X-MoE with k = h, as long as
there are h experts to choose.
Cost: smoke 3 minutes, cpu about two and a half hours on two cores, most of it `parameters` with many heads.
Run: make reproduce-table5 SCALE=cpu, or any list of heads: make ablate-heads HEADS="2 3 4" SCALE=cpu
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from analysis.claims.rules import Claim
from experiments.claims import lower
from experiments.kinds.routing import EXPERT_ACTIVATION
from experiments.kinds.table import Row, Table
from experiments.kinds.trend import Trend
from experiments.paper import paper_pair
from experiments.system import System
from experiments.systems import OURS, mhmoe, xmoe
from experiments.testbed import RAISED_AT, TUNED
from experiments.tuning import SEEN, tuned
from mhmoe.layers.matching import Matching

PRINTED = "v1_table5_head_number"
EXPERTS = 8
HEADS = (2, 4, 6, 8, 12)
FOUND, LOST = 2, 4  # by the search, and beside it in the step of `why` that its point is
MATCHINGS: dict[Matching, str] = {"parameters": "equal parameters", "compute": "equal FLOPs"}
SOURCES = {"parameters": "v1 Table 5", "compute": "v1 Table 5, at v2's sizes"}


def series(heads: Sequence[int]) -> dict[str, dict[int, System]]:
    """Both matchings and the control against the number of heads (of choices, for X-MoE), as published and tuned."""
    return {
        **{
            f"MH-MoE, {sized}": {h: mhmoe(EXPERTS, matching, h, seeds=3) for h in heads}
            for matching, sized in MATCHINGS.items()
        },
        "X-MoE, k = h (control)": {h: xmoe(EXPERTS, top_k=h, seeds=3) for h in heads if 1 < h <= EXPERTS},
        "X-MoE": {1: xmoe(EXPERTS)},
        **{f"MH-MoE, {sized}, tuned": {h: _tuned(matching, h) for h in heads} for matching, sized in MATCHINGS.items()},
        "X-MoE, tuned": {1: TUNED.few},
    }


def _tuned(matching: Matching, heads: int) -> System:
    """With two heads, which the search found, the tuned system itself; of the others at equal FLOPs four seeds, three
    of which it has too. Its seed 1 chose, against that of four heads, so neither has it."""
    sized = f"mhmoe_{{}}_{matching}"
    if heads == FOUND:
        return tuned(sized)
    if (matching, heads) == ("compute", LOST):
        return replace(tuned(sized, seeds=3, parts=heads), seen=SEEN)
    return tuned(sized, seeds=4 if matching == "compute" else 3, parts=heads)


SERIES = series(HEADS)
PAPER = {
    "xmoe_8": (PRINTED, "xmoe"),
    **{SERIES["MH-MoE, equal parameters"][h].name: (PRINTED, "mhmoe", str(h)) for h in HEADS},
}


def rows(heads: Sequence[int]) -> list[Row]:
    """X-MoE, then under each matching MH-MoE with each number of heads, then the controls; then the tuned arm."""
    of = series(heads)
    labels = sorted(of, key=lambda label: (label.endswith("tuned"), label not in ("X-MoE", "X-MoE, tuned")))
    return [
        Row(
            system=system,
            paper=PAPER.get(system.name, ()),
            reference=TUNED.few.name if system.arm == "tuned" else None,
        )
        for label in labels
        for system in of[label].values()
    ]


def page(
    heads: Sequence[int], *, slug: str, title: str, claims: Sequence[Claim] = (), notes: Sequence[str] = ()
) -> Table:
    return Table(
        slug=slug,
        title=title,
        rows=rows(heads),
        reference=f"xmoe_{EXPERTS}",
        trend=Trend(
            x_label="heads h (choices k of the control)",
            panels=("perplexity", "activation", "speed"),
            series={label: list(systems.items()) for label, systems in series(heads).items()},
        ),
        measurements=(EXPERT_ACTIVATION,),
        claims=claims,
        notes=notes,
    )


def for_heads(heads: Sequence[int]) -> Table:
    """The same comparison for any numbers of heads; a page of its own, and nothing is claimed about it."""
    return page(list(dict.fromkeys(heads)), slug="ablate_heads", title="Test perplexity against the number of heads")


def _below(statement: str, better: System, worse: System, source: str = "v1 Table 5") -> Claim:
    paper = paper_pair(PAPER.get(better.name, ()), PAPER.get(worse.name, ()))
    raised_at = RAISED_AT if better.arm == "tuned" and better.matching == "compute" else ()
    return lower(f"{statement} (`{better.matching}`)", source, better, worse, paper=paper, raised_at=raised_at)


def _claims() -> Iterator[Claim]:
    """As published, then tuned."""
    by_heads = {matching: SERIES[f"MH-MoE, {sized}"] for matching, sized in MATCHINGS.items()}
    tuned_by_heads = {matching: SERIES[f"MH-MoE, {sized}, tuned"] for matching, sized in MATCHINGS.items()}
    for h, system in by_heads["parameters"].items():
        yield _below(f"MH-MoE with {h} heads lies below X-MoE", system, xmoe(EXPERTS))
    for matching, of in by_heads.items():
        for h in (2, 12):
            yield _below(f"6 heads lie below {h}", of[6], of[h], SOURCES[matching])
    for h, control in SERIES["X-MoE, k = h (control)"].items():
        statement = f"MH-MoE with {h} heads lies below X-MoE with k = {h}"
        yield _below(statement, by_heads["parameters"][h], control, OURS)
    for matching, of in tuned_by_heads.items():
        for h, system in of.items():
            yield _below(f"Tuned: MH-MoE with {h} heads lies below X-MoE", system, TUNED.few, SOURCES[matching])
        for h in (2, 12):
            yield _below(f"Tuned: 6 heads lie below {h}", of[6], of[h], SOURCES[matching])


PAGE = page(
    HEADS,
    slug="table5_head_number",
    title="Table 5: test perplexity against the number of heads",
    claims=list(_claims()),
    notes=("With 12 heads there is no control: k cannot exceed the 8 experts.",),
)
