"""Equal tuning, in two rounds: every system the same 32 points of one space, then 16 of a narrower one.

The best three, then two, go on to full length, and with them what was named beforehand: the published settings, and
the step of `why` that was best with one seed. Sizes are those of X-MoE with k = 2, which a mixture needs at these
numbers of tokens: as many FLOPs, or as many parameters. Cost: cpu about six hours of two cores.
Run: python -m experiments run tuning
"""

from collections.abc import Callable
from dataclasses import replace

from experiments.kinds.rounds import Round
from experiments.kinds.search import Search
from experiments.settings import NARROWED, SPACE, Point, Settings
from experiments.system import System
from experiments.systems import dense_of_cost, fine_grained, mhmoe, null, xmoe
from mhmoe.layers.matching import Matching

EXPERTS, TOP_K = 8, 2


def choices_of(point: Point, matching: Matching) -> int:
    """k of MH-MoE; at equal parameters at most 2, with which it has h times the FLOPs of X-MoE already."""
    return {"compute": (2, 4, 8), "parameters": (1, 2, 2)}[matching][point.choices]


def mhmoe_at(
    point: Point, matching: Matching, experts: int = EXPERTS, *, heads: int | None = None, layers: int = 1
) -> System:
    """MH-MoE of the size of X-MoE with two choices, with the heads and choices of a point."""
    k = choices_of(point, matching)
    return mhmoe(experts, matching, heads or point.parts, top_k=k, layers=layers, like_top_k=TOP_K)


# With a number of experts: a name, what people call it, and the system at a point.
SIZED: dict[str, tuple[str, Callable[[int, Point], System]]] = {
    "xmoe_{}": (
        "X-MoE, {} experts, k = 2",
        lambda experts, point: xmoe(experts, TOP_K),
    ),
    "fine_{}": (
        "fine-grained X-MoE, {} experts cut up, FLOPs of k = 2",
        lambda experts, point: fine_grained(experts, point.parts, TOP_K),
    ),
    "mhmoe_{}_compute": (
        "MH-MoE, FLOPs and parameters of X-MoE with {} experts and k = 2",
        lambda experts, point: mhmoe_at(point, "compute", experts),
    ),
    "mhmoe_{}_parameters": (
        "MH-MoE, parameters of X-MoE with {} experts and k = 2",
        lambda experts, point: mhmoe_at(point, "parameters", experts),
    ),
}


def _built(sized: str, experts: int) -> Callable[[Point], System]:
    build = SIZED[sized][1]
    return lambda point: build(experts, point)


# At the rate that most systems choose from the grid. With it no system is the worse for having been tuned.
PUBLISHED = Point(settings=Settings(), learning_rate=8e-3, parts=4, choices=0)
SLOW_IDENTITY = Settings(norm="layer", start="identity", projection_lr=0.1)  # with h = 2 and k = 4, of `why`
STEPPED = Point(settings=SLOW_IDENTITY, learning_rate=8e-3, parts=2, choices=1)

PAGE = Search(
    slug="tuning",
    title="Tuning: the same points of the same space for every system",
    bases={
        "null": lambda point: null(),
        "dense": lambda point: dense_of_cost(xmoe(EXPERTS, TOP_K)),
        **{sized.format(EXPERTS): _built(sized, EXPERTS) for sized in SIZED},
    },
    labels={
        "null": "no layer",
        "dense": "Dense, FLOPs of X-MoE with k = 2",
        **{sized.format(EXPERTS): label.format(EXPERTS) for sized, (label, _) in SIZED.items()},
    },
    names={
        "null": "no layer",
        "dense": "Dense",
        "xmoe_8": "X-MoE",
        "fine_8": "fine-grained X-MoE",
        "mhmoe_8_compute": "MH-MoE, equal FLOPs",
        "mhmoe_8_parameters": "MH-MoE, equal parameters",
    },
    rounds=(
        Round(space=SPACE, trials=32, share=1 / 4, also=(PUBLISHED,)),
        Round(space=NARROWED, trials=16, share=1 / 2, kept=2, also=(STEPPED,), seed=1),
    ),
    settling=2,
    notes=(
        "Round 1 saw nothing of `test`. The space of round 2 and the point named with it were chosen after test "
        "perplexities of `why`, of one seed, had been seen; they are the same for all systems, but the point is a step "
        "of MH-MoE's there, and the best of MH-MoE alone.",
        "parts: heads of MH-MoE, and into how many an expert of fine-grained X-MoE is cut. choices: which of three k. "
        "norm: none, behind the layer, or behind the experts; inner norm: one in each network. gate: the softmax "
        "value, renormalised over the chosen, or a sigmoid. per head: a router and experts for each head. route by: "
        "what the router reads, the head layer's output or its input. start: of the head and the merge layer. output "
        "gain: of the initial last matrices. projection, experts, router lr: multipliers of the learning rate. What a "
        "system lacks changes nothing there: a model without the layer has no gate.",
    ),
)


# MH-MoE's point was named when `test` of `why`, seed 1, was known. At equal FLOPs that run had a part in the choice; it
# is none of the final ones.
SEEN = (("english", "cpu", 1),)


def tuned(
    sized: str, experts: int = EXPERTS, seeds: int | None = None, *, parts: int | None = None, own_rate: bool = False
) -> System:
    """A key of SIZED, or "null" or "dense", at the best point of 8 experts; parts: with so many heads in any case.
    own_rate: at a learning rate that is chosen on the text it is trained on."""
    if sized not in SIZED:
        return replace(PAGE.tuned(sized, seeds=seeds, own_rate=own_rate), role=sized)
    name, label, build = sized.format(experts), SIZED[sized][0].format(experts), _built(sized, experts)
    if parts is None:
        system = at_best(sized, name, label, build, seeds, own_rate=own_rate)
        return replace(system, seen=SEEN) if (sized, experts) == ("mhmoe_{}_compute", EXPERTS) else system
    return at_best(sized, f"{name}_h{parts}", f"{label}, h = {parts}", lambda p: build(replace(p, parts=parts)), seeds)


def at_best(
    sized: str,
    name: str,
    label: str,
    build: Callable[[Point], System],
    seeds: int | None = None,
    *,
    own_rate: bool = False,
) -> System:
    """Another system at the best point that the search found for a key of SIZED."""
    system = PAGE.tuned(sized.format(EXPERTS), (name, label, build), seeds=seeds, own_rate=own_rate)
    role = next((role for role in ("compute", "parameters", "xmoe") if role in sized), "control")
    return replace(system, role=role, matching=role if "mhmoe" in sized else "")
