"""The testbed: what the scales can show, and so which claims can be judged there.

No table of the paper. Cost: cpu about forty minutes beyond Table 1 and the tuning, on two cores.
Run: python -m experiments run testbed
"""

from experiments.kinds.testbed import Arm, Testbed
from experiments.systems import HEADS, dense, mhmoe, null, xmoe
from experiments.tuning import PAGE as TUNING

PUBLISHED = Arm(
    name="published",
    null=null(),
    dense=dense(),
    few=xmoe(8),
    many=xmoe(32, seeds=3),
    others=(xmoe(8, top_k=2), xmoe(8, top_k=HEADS), mhmoe(8, "parameters"), mhmoe(8, "compute")),
)
TUNED = Arm(
    name="tuned",
    null=TUNING.tuned("null"),
    dense=TUNING.tuned("dense"),
    few=TUNING.tuned("xmoe_8"),
    many=TUNING.tuned("xmoe_8", ("xmoe_32", "X-MoE, 32 experts, k = 2", lambda point: xmoe(32, 2)), seeds=3),
    others=[TUNING.tuned(base) for base in ("fine_8", "mhmoe_8_compute", "mhmoe_8_parameters")],
)

PAGE = Testbed(slug="testbed", title="The testbed: what can be shown here", arms=(PUBLISHED, TUNED))
