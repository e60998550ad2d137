"""The testbed: what the scales can show, and so which claims can be judged there.

No table of the paper. Cost: cpu about forty minutes beyond Table 1 and the tuning, on two cores.
Run: python -m experiments run testbed
"""

from experiments.kinds.testbed import Arm, Testbed
from experiments.layers import HEADS
from experiments.systems import controls, dense, mhmoe, null, xmoe
from experiments.tuning import tuned

PUBLISHED = Arm(
    name="published",
    null=null(),
    dense=dense(),
    few=xmoe(8),
    many=xmoe(32),
    others=(xmoe(8, top_k=HEADS), mhmoe(8, "parameters"), mhmoe(8, "compute"), *controls()),
)
# Seeds of the tuned arm were added after a look, for 32 experts and for the one that chose (docs/how/ledger.md).
RAISED_AT = ("cpu",)
TUNED = Arm(
    name="tuned",
    raised_at=RAISED_AT,
    null=tuned("null"),
    dense=tuned("dense"),
    few=tuned("xmoe_{}"),
    many=tuned("xmoe_{}", 32),
    others=[tuned(sized) for sized in ("fine_{}", "mhmoe_{}_compute", "mhmoe_{}_parameters")],
)

PAGE = Testbed(slug="testbed", title="The testbed: what can be shown here", arms=(PUBLISHED, TUNED))
