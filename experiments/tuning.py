"""Equal tuning: every system the same 32 points of one space, then its best three at full length.

Sizes are those of X-MoE with k = 2, which a mixture needs at these numbers of tokens: as many FLOPs, or as many
parameters. Cost: cpu about two hours of two cores. Run: python -m experiments run tuning
"""

from experiments.kinds.search import Search
from experiments.settings import Point
from experiments.systems import System, dense_of_cost, fine_grained, mhmoe, null, xmoe

EXPERTS, TOP_K = 8, 2


def _same_flops(point: Point) -> System:
    return mhmoe(EXPERTS, "compute", point.parts, top_k=(2, 4, 8)[point.choices], like_top_k=TOP_K)


def _same_parameters(point: Point) -> System:
    """Of at most k = 2, with which it has h times the FLOPs of X-MoE already."""
    return mhmoe(EXPERTS, "parameters", point.parts, top_k=(1, 2, 2)[point.choices], like_top_k=TOP_K)


PAGE = Search(
    slug="tuning",
    title="Tuning: the same points of the same space for every system",
    bases={
        "null": lambda point: null(),
        "dense": lambda point: dense_of_cost(xmoe(EXPERTS, TOP_K)),
        "xmoe_8": lambda point: xmoe(EXPERTS, TOP_K),
        "fine_8": lambda point: fine_grained(EXPERTS, point.parts, TOP_K),
        "mhmoe_8_compute": _same_flops,
        "mhmoe_8_parameters": _same_parameters,
    },
    labels={
        "null": "no layer",
        "dense": "Dense, FLOPs of X-MoE with k = 2",
        "xmoe_8": "X-MoE, 8 experts, k = 2",
        "fine_8": "fine-grained X-MoE, FLOPs of k = 2",
        "mhmoe_8_compute": "MH-MoE, FLOPs and parameters of X-MoE with k = 2",
        "mhmoe_8_parameters": "MH-MoE, parameters of X-MoE with k = 2",
    },
)
