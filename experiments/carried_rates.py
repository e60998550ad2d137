"""Carried rates: does the learning rate that was chosen at another width fit this one?

At the scale gpu no rate is searched: systems take the one of the scale cpu, the matrices of blocks times the ratio of
the widths (muP; Yang et al. 2022, arXiv 2203.03466). Half and twice that rate stand beside it, one seed each.
No table of the paper. Run: python -m experiments run carried_rates --scale gpu
"""

from experiments.changed_systems import ablate
from experiments.kinds.sensitivity import Sensitivity, Variation
from experiments.systems import dense, mhmoe, xmoe

SYSTEMS = {
    "X-MoE": xmoe(8),
    "Dense": dense(),
    "MH-MoE, `parameters`": mhmoe(8, "parameters"),
    "MH-MoE, `compute`": mhmoe(8, "compute"),
}

PAGE = Sensitivity(
    slug="carried_rates",
    title="Carried rates: test perplexity at half and twice the rate",
    only=("gpu",),
    systems=SYSTEMS,
    variations=[
        Variation(label=label, systems=[ablate(s, name, label, lr_multiplier=times) for s in SYSTEMS.values()])
        for label, name, times in (
            ("half the learning rate", "halfrate", 0.5),
            ("twice the learning rate", "doublerate", 2.0),
        )
    ],
)
