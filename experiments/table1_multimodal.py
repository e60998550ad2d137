"""Table 1 (masked multi-modal): the same systems, trained to predict masked tokens of images, text, and both.

Paper (v1, Table 1): Dense 17.95; X-MoE 16.34 and 12.68; MH-MoE 14.73 and 10.87. What its perplexity is of, tokens of
text, of images or of all, is not printed.
Cost: cpu about an hour and a half on two cores. Run: make reproduce-table1 TASK=multimodal SCALE=cpu
"""

from experiments.table1 import table1
from experiments.testbed import TUNED_HERE

PAGE = table1(
    "multimodal",
    slug="table1_multimodal",
    title="Table 1 (masked multi-modal): test perplexity",
    where=" in masked images and text",
    arm=TUNED_HERE,
    also=(),
    notes=(
        "Perplexity is of masked tokens, of images and text alike; each token of the test text is masked once. Images "
        "are CIFAR-10's, pairs are the questions and answers of easy-VQA and captions of COCO, text is Wikipedia and "
        "books; each is about a third of the tokens. Perplexity compares systems on one kind and not kinds with each "
        "other. The pairs' is of their images and their text.",
        "Tuned systems have the settings that the search found for English; their learning rates are chosen on this "
        "text, from the grid of all others.",
    ),
)
