"""Learning rates: the same grid for every system, chosen on `valid` with one seed.

An inner width h times as large wants a smaller rate, so one rate for all would decide the comparison.
The grid's runs are shorter than the final ones and never see the test split; the final seeds are others.
Cost: cpu about one hour on two cores. Run: python -m experiments run learning_rates --scale cpu
"""

from experiments.recipes import HEADS, dense, mhmoe, xmoe
from experiments.schema import Sweep

EXPERIMENT = Sweep(
    stem="learning_rates",
    title="Learning rates: validation perplexity of the grid",
    systems=(
        dense(),
        xmoe(8),
        xmoe(8, top_k=HEADS),
        mhmoe(8, "parameters"),
        mhmoe(8, "compute"),
        xmoe(32),
        mhmoe(32, "parameters"),
        mhmoe(32, "compute"),
    ),
    notes=(
        "Chosen is the smallest rate within 1% of the system's best perplexity: the grid's runs are short, "
        "and short runs favour high rates. A chosen rate at the edge of the grid says that the grid should "
        "be wider.",
    ),
)
