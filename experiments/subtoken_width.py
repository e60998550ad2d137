"""Does MH-MoE's standing grow with the width of a sub-token?

The paper's sub-tokens have 192 numbers (768 / 4), those of the cpu scale 24: a finding at a small width may
be a finding about narrow sub-tokens. Here X-MoE and MH-MoE of equal FLOPs (`compute`) with h = 2 and 4 at
model widths 96 and 192, so sub-tokens of 24, 48, 48 and 96 numbers.
No table of the paper. Cost: cpu about two hours on two cores. Run: python -m experiments run subtoken_width
"""

from experiments.kinds.table import Row, Table
from experiments.systems import mhmoe, xmoe

PAGE = Table(
    slug="subtoken_width",
    title="Width of sub-tokens: test perplexity of X-MoE and MH-MoE of equal FLOPs",
    rows=(
        Row(system=xmoe(8)),
        Row(system=mhmoe(8, "compute", heads=4)),
        Row(system=mhmoe(8, "compute", heads=2, seeds=2)),
        Row(system=xmoe(8, width=192, seeds=2), reference="xmoe_8_w192"),
        Row(system=mhmoe(8, "compute", heads=4, width=192, seeds=2), reference="xmoe_8_w192"),
        Row(system=mhmoe(8, "compute", heads=2, width=192, seeds=2), reference="xmoe_8_w192"),
    ),
    reference="xmoe_8",
    notes=(
        "Changes are relative to X-MoE of the same width. Sub-tokens have 24 and 48 numbers at width 96, 48 and 96 at "
        "width 192; the paper's have 192.",
    ),
)
