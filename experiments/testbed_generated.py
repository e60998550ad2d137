"""The testbed of the generated task: what its scales can show, and so which of its claims can be judged.

No table of the paper. Run: python -m experiments run testbed --task generated
"""

from experiments.kinds.testbed import Testbed
from experiments.testbed import PUBLISHED

PAGE = Testbed(
    slug="testbed_generated",
    title="The testbed: what can be shown in generated text",
    task="generated",
    arms=(PUBLISHED,),
)
