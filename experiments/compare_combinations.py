"""Compare combinations: the multi-head mechanism around every router and every inner mixture, at equal FLOPs.

v1 calls its mechanism decoupled from other SMoE methods and easy to combine with them (section 1). Here each method
stands alone and inside the heads: the FLOPs of X-MoE with 8 experts and k = 2, its parameters as near as the method
allows. Alone it has X-MoE's best settings, with heads MH-MoE's and as many heads.
No table of the papers. Cost: cpu about four hours of one core beyond compare_systems.
Run: make compare-combinations SCALE=cpu
"""

from experiments.claims import lower
from experiments.field import FAMILIES, JAMBA, VARIANTS, headed, system
from experiments.kinds.table import Row, Table
from experiments.system import System
from experiments.testbed import TUNED
from experiments.tuning import tuned

MHMOE = tuned("mhmoe_{}_compute")
PAIRS: dict[str, tuple[System, System]] = {
    "X-MoE": (TUNED.few, MHMOE),
    **{
        family.label.partition(",")[0]: (system(family), headed(family))
        for family in (*VARIANTS, *FAMILIES)
        if family != JAMBA  # which is a placement, of Mixtral's experts
    },
}

PAGE = Table(
    slug="compare_combinations",
    title="Combinations: the multi-head mechanism around other methods, at equal FLOPs",
    rows=[
        Row(system=TUNED.null),
        *(
            row
            for alone, headed_one in PAIRS.values()
            for row in (Row(system=alone), Row(system=headed_one, reference=alone.name))
        ),
    ],
    reference=TUNED.few.name,
    claims=[
        lower(
            f"Heads lower the perplexity of {name}, at equal FLOPs",
            "v1 Section 1: decoupled, easy to combine",
            headed_one,
            alone,
        )
        for name, (alone, headed_one) in PAIRS.items()
        if alone is not TUNED.few  # which Table 1 claims
    ],
    notes=(
        "Changes of systems with heads are relative to the same method without, all others to X-MoE. Methods alone "
        "have the best settings that the search found for X-MoE, with heads those for MH-MoE, so that a change is "
        "that of the heads and of the settings together; gates and k are their own. Sizes are solved for heads "
        "that share router and experts; where the settings give each its own, they come out as the columns show.",
    ),
)
