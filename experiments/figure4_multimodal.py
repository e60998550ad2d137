"""Figure 4 (masked multi-modal), v1's Figure 4 (c). Run: make figure4 TASK=multimodal SCALE=cpu"""

from experiments.figure4 import figure4
from experiments.scales import MULTIMODAL

PAGE = figure4(
    MULTIMODAL,
    slug="figure4_multimodal",
    title="Figure 4 (masked multi-modal): validation perplexity along training",
    where=" in masked images and text",
)
