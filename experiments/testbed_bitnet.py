"""The testbed in BitNet b1.58: whether mixtures gain anything there, on which v2's Table 3 rests.

No table of the paper. Cost: cpu about twenty minutes of one core beyond v2's Table 3.
Run: python -m experiments run testbed_bitnet
"""

from dataclasses import replace

from experiments.kinds.testbed import Arm, Testbed
from experiments.v2 import DENSE, SMOE, Model, in_bitnet
from mhmoe.layers.absent import AbsentConfig

NULL = Model(
    name="v2_null", label="no layer", at="null", layer=lambda scale, k: AbsentConfig(dim=scale.model["hidden_size"])
)

PAGE = Testbed(
    slug="testbed_bitnet",
    title="The testbed in BitNet b1.58",
    arms=[
        Arm(
            name="bitnet",
            null=replace(in_bitnet(NULL).tuned, role="null"),
            dense=in_bitnet(DENSE).tuned,
            few=in_bitnet(SMOE).tuned,
        )
    ],
)
