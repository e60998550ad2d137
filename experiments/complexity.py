"""Complexity: what "the same size as X-MoE" costs under each matching, at every scale.

The three matchings of mhmoe/layers/matching.py, solved, with the control, and v2's runs as printed beside what its
equations solve. v1 Table 11's widths are used as printed at the paper scale (`parameters`). Nothing is run.
Run: python -m experiments render complexity
"""

from experiments.kinds.sizes import Sizes
from experiments.layers import HEADS
from experiments.systems import dense, mhmoe, xmoe

PAGE = Sizes(
    slug="complexity",
    title="Parameters and FLOPs under the three matchings",
    systems=(
        dense(),
        xmoe(8),
        xmoe(8, top_k=HEADS),
        mhmoe(8, "equation"),
        mhmoe(8, "parameters"),
        mhmoe(8, "compute"),
        mhmoe(8, "compute", heads=2),
        xmoe(32),
        mhmoe(32, "equation"),
        mhmoe(32, "parameters"),
        mhmoe(32, "compute"),
    ),
    at=("cpu", "gpu", "paper"),
    follow_up=(2, 3),
    notes=(
        "As printed: 4 beta d wide, as v1's equation says, with the beta of equal parameters solved here. That is one "
        "way to read the paper, and no model whose size it prints: Table 11's has h times the width.",
        "FLOPs are of the forward pass, two per multiply-add of the matrix products, routers included. "
        "`compute` follows v2, which leaves the router out of the equation: at small widths its share is not "
        "small.",
    ),
)
