"""Figure 4 (English), v1's Figure 4 (a). Run: make figure4 SCALE=cpu"""

from experiments.figure4 import figure4

PAGE = figure4(
    "english", slug="figure4_training_curves", title="Figure 4 (English): validation perplexity along training"
)
