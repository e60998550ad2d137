"""The testbed of the masked multi-modal task: what its scales can show, and so which of its claims can be judged.

Runs of the tuned arm were trained again after a look, so p counts twice there (docs/how/ledger.md).
No table of the paper. Run: python -m experiments run testbed --task multimodal
"""

from dataclasses import replace

from experiments.kinds.testbed import Testbed
from experiments.testbed import PUBLISHED, RAISED_AT, TUNED_HERE

PAGE = Testbed(
    slug="testbed_multimodal",
    title="The testbed: what can be shown in masked images and text",
    task="multimodal",
    arms=(PUBLISHED, replace(TUNED_HERE, raised_at=dict.fromkeys(("mixture", "null"), RAISED_AT))),
)
