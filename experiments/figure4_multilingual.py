"""Figure 4 (multilingual), v1's Figure 4 (b). Run: make figure4 TASK=multilingual SCALE=cpu"""

from experiments.figure4 import figure4

PAGE = figure4(
    "multilingual",
    slug="figure4_multilingual",
    title="Figure 4 (multilingual): validation perplexity along training",
    where=" in fourteen languages",
)
