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


def tuned_arm(*, own_rate: bool = False, raised_at: tuple[str, ...] = ()) -> Arm:
    """The systems that the search settles; own_rate: their learning rates are chosen on the task's own text."""
    others = ("fine_{}", "mhmoe_{}_compute", "mhmoe_{}_parameters")
    return Arm(
        name="tuned",
        raised_at=raised_at,
        null=tuned("null", own_rate=own_rate),
        dense=tuned("dense", own_rate=own_rate),
        few=tuned("xmoe_{}", own_rate=own_rate),
        many=tuned("xmoe_{}", 32, own_rate=own_rate),
        others=[tuned(sized, own_rate=own_rate) for sized in others],
    )


TUNED = tuned_arm(raised_at=RAISED_AT)
TUNED_HERE = tuned_arm(own_rate=True)
"""Where rates that were found on English text do not fit: of masked images and text."""

PAGE = Testbed(slug="testbed", title="The testbed: what can be shown here", arms=(PUBLISHED, TUNED))
