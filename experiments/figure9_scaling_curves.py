"""Figure 9: validation perplexity along training, from 8 to 256 experts.

Paper (v1, Figure 9): MH-MoE's curves lie below X-MoE's for every number of experts. The runs are Figure 6's.
Run: make figure9 SCALE=cpu
"""

from experiments.figure6_scaling_experts import SERIES
from experiments.schema import Curves

EXPERIMENT = Curves(
    stem="figure9_scaling_curves",
    title="Figure 9: validation perplexity along training, from 8 to 256 experts",
    panels={label: {f"{experts:g} experts": system for experts, system in series} for label, series in SERIES.items()},
)
