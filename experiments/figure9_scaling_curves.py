"""Figure 9: validation perplexity along training, from 8 to 256 experts.

Paper (v1, Figure 9): MH-MoE's curve lies below X-MoE's for every number of experts. The runs are Figure 6's.
Run: make figure9 SCALE=cpu
"""

from experiments.claims import lower
from experiments.figure6_scaling_experts import SEEDS, SERIES
from experiments.kinds.curves import Curves

SOURCES = {"parameters": "v1 Figure 9", "compute": "v1 Figure 9, at v2's sizes"}

PAGE = Curves(
    slug="figure9_scaling_curves",
    title="Figure 9: validation perplexity along training, from 8 to 256 experts",
    panels={f"size of X-MoE with {n} experts": {label: SERIES[label][n] for label in SERIES} for n in SEEDS},
    claims=[
        lower(
            f"{label}, of the size of X-MoE with {n} experts, ends below it",
            SOURCES[SERIES[label][n].matching],
            SERIES[label][n],
            SERIES["X-MoE"][n],
            split="valid",
            control="experts",
        )
        for n in (64, 256)
        for label in ("MH-MoE, equal parameters", "MH-MoE, equal FLOPs")
    ],
    notes=("8 and 32 experts are judged in Table 1, on the test text.",),
)
