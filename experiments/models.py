"""Small models of the main systems that anybody can train again, and the hashes of their weights.

The text is generated, so that nothing is needed; the learning rate is fixed, so that one run gives each model.
Cost: cpu 10 min on two cores. Run: make models (into models/.cache/models, and compared with results/models.csv)
"""

import dataclasses

from experiments.kinds.models import WEIGHTS, Models
from experiments.system import System
from experiments.systems import dense, mhmoe, xmoe


def _fixed(system: System) -> System:
    return dataclasses.replace(system, name=f"model_{system.name}", learning_rate=8e-3, seeds=1)


PAGE = Models(
    slug="models",
    title="Small models to train again, and their hashes",
    task="generated",
    systems=[_fixed(s) for s in (dense(), xmoe(8), mhmoe(8, "compute"), mhmoe(8, "parameters"))],
    measurements=(WEIGHTS,),
)
