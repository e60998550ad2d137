"""The testbed: what the scales can show, and so which claims can be judged there.

No table of the paper. Cost: cpu about forty minutes beyond Table 1 and the tuning, on two cores.
Run: python -m experiments run testbed
"""

from dataclasses import replace

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


def tuned_arm(*, own_rate: bool = False) -> Arm:
    """The systems that the search settles; own_rate: their learning rates are chosen on the task's own text."""
    others = ("fine_{}", "mhmoe_{}_compute", "mhmoe_{}_parameters")
    return Arm(
        name="tuned",
        null=tuned("null", own_rate=own_rate),
        dense=tuned("dense", own_rate=own_rate),
        few=tuned("xmoe_{}", own_rate=own_rate),
        many=tuned("xmoe_{}", 32, own_rate=own_rate),
        others=[tuned(sized, own_rate=own_rate) for sized in others],
    )


TUNED = tuned_arm()
TUNED_HERE = tuned_arm(own_rate=True)
"""Where rates that were found on English text do not fit: of masked images and text."""

# Where seeds were added after a look: for 32 experts, and of the tuned arm for the one that chose (docs/how/ledger.md).
RAISED_AT = ("cpu",)

PAGE = Testbed(
    slug="testbed",
    title="The testbed: what can be shown here",
    arms=(
        replace(PUBLISHED, raised_at={"experts": RAISED_AT}),
        replace(TUNED, raised_at=dict.fromkeys(("mixture", "experts", "null"), RAISED_AT)),
    ),
)
