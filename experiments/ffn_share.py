"""FFN share: what part of a transformer's parameters and FLOPs its feed-forward networks are, at four sizes.

Introductions to mixtures of experts begin with "two thirds of the parameters". That holds of the blocks, with an inner
width of 4 dim, at any size: 8 d^2 of 12 d^2. Of the whole model it depends on the vocabulary, and of the FLOPs on the
length too. No table of the papers. Nothing is run. Run: python -m experiments render ffn_share
"""

from experiments.kinds.shares import Model, Shares
from experiments.scales import CPU, PAPER
from mhmoe.layers.experts import FeedForwardConfig

PAGE = Shares(
    slug="ffn_share",
    title="What part of a transformer its feed-forward networks are",
    models=(
        Model(label="dense, scale cpu", config=CPU.model, source="experiments/scales.py"),
        Model(label="dense, scale paper", config=PAPER.model, source="experiments/scales.py, after v1's set-up"),
        Model(
            label="Llama 2 7B",
            config={
                "vocab_size": 32000,
                "hidden_size": 4096,
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "max_position_embeddings": 4096,
                "feed_forward": FeedForwardConfig(dim=4096, inner_dim=11008, activation="swiglu"),
                "tie_word_embeddings": False,
            },
            source="arXiv 2307.09288, Table 1 and the released config",
        ),
        Model(
            label="GPT-3 175B",
            config={
                "vocab_size": 50257,
                "hidden_size": 12288,
                "num_hidden_layers": 96,
                "num_attention_heads": 96,
                "max_position_embeddings": 2048,
            },
            source="arXiv 2005.14165, Table 2.1; the vocabulary is GPT-2's",
        ),
    ),
    notes=(
        "FLOPs are of the forward pass, two per multiply-add of the matrix products; attention counts the whole square "
        "of its positions, as torch does. Learned positions, biases and norms of the published models are left out: "
        "below 0.1%.",
    ),
)
