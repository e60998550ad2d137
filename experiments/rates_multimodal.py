"""Half and twice the rate, of the tuned systems on masked images and text: does the choice of the rate decide?

The grid's runs are a quarter as long as the final ones, of one seed. No table of the paper.
Cost beyond Table 1 (masked multi-modal): cpu a quarter of an hour on two cores.
Run: python -m experiments run rates_multimodal --scale cpu
"""

from experiments.kinds.sensitivity import Sensitivity, Variation
from experiments.scales import MULTIMODAL
from experiments.tuning import PAGE as TUNING
from experiments.tuning import SIZED, tuned

BASES = {
    "X-MoE": "xmoe_8",
    "Dense": "dense",
    "no layer": "null",
    "MH-MoE, equal FLOPs": "mhmoe_8_compute",
}

PAGE = Sensitivity(
    slug="rates_multimodal",
    title="Rates (masked multi-modal): test perplexity at half and twice the rate",
    task=MULTIMODAL,
    systems={
        label: tuned(next((sized for sized in SIZED if sized.format(8) == base), base), own_rate=True)
        for label, base in BASES.items()
    },
    variations=[
        Variation(
            label=f"{what} the learning rate",
            systems=[TUNING.tuned(base, own_rate=True, rate_times=times) for base in BASES.values()],
        )
        for what, times in (("half", 0.5), ("twice", 2.0))
    ],
)
