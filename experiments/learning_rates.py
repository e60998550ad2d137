"""Learning rates: the same grid for every system, chosen on `valid` with one seed.

An inner width h times as large wants a smaller rate, so one rate for all would decide the comparison.
The grid's runs are shorter than the final ones and never see the test split; the final seeds are others.
Cost: cpu about one hour on two cores. Run: python -m experiments run learning_rates --scale cpu
"""

from experiments.kinds.sweep import CHOICE_OF_RATE, Sweep
from experiments.systems import compared, controls

PAGE = Sweep(
    slug="learning_rates",
    title="Learning rates: validation perplexity of the grid",
    systems=[*(system for system, _ in compared()), *controls()],
    notes=(CHOICE_OF_RATE,),
)
