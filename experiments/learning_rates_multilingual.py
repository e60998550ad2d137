"""Learning rates of the multilingual models: the same grid, chosen on their own `valid`.

Cost: cpu about an hour and a quarter on two cores.
Run: python -m experiments run learning_rates --task multilingual --scale cpu
"""

from experiments.kinds.sweep import CHOICE_OF_RATE, Sweep
from experiments.systems import compared, controls

PAGE = Sweep(
    slug="learning_rates_multilingual",
    title="Learning rates (multilingual): validation perplexity of the grid",
    task="multilingual",
    systems=[*(system for system, _ in compared()), *controls()],
    notes=(CHOICE_OF_RATE,),
)
