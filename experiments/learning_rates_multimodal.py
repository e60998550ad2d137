"""Learning rates of the masked multi-modal models: the same grid, chosen on their own `valid`.

Cost: cpu about half an hour on two cores. Run: python -m experiments run learning_rates --task multimodal --scale cpu
"""

from experiments.kinds.sweep import CHOICE_OF_RATE, Sweep
from experiments.systems import compared, controls
from experiments.testbed import TUNED_HERE

PAGE = Sweep(
    slug="learning_rates_multimodal",
    title="Learning rates (masked multi-modal): validation perplexity of the grid",
    task="multimodal",
    systems=[*(system for system, _ in compared()), *controls(), *TUNED_HERE.systems],
    notes=(CHOICE_OF_RATE,),
)
