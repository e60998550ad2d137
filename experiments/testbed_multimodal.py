"""The testbed of the masked multi-modal task: what its scales can show, and so which of its claims can be judged.

No table of the paper. Run: python -m experiments run testbed --task multimodal
"""

from experiments.kinds.testbed import Testbed
from experiments.testbed import PUBLISHED, TUNED_HERE

PAGE = Testbed(
    slug="testbed_multimodal",
    title="The testbed: what can be shown in masked images and text",
    task="multimodal",
    arms=(PUBLISHED, TUNED_HERE),
)
