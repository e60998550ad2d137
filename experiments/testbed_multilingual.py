"""The testbed of the multilingual task: what its scales can show, and so which of its claims can be judged.

No table of the paper. Run: python -m experiments run testbed --task multilingual
"""

from experiments.kinds.testbed import Testbed
from experiments.testbed import PUBLISHED, TUNED

PAGE = Testbed(
    slug="testbed_multilingual",
    title="The testbed: what can be shown in fourteen languages",
    task="multilingual",
    arms=(PUBLISHED, TUNED),
)
