"""A scale at which all of Table 1 takes seconds."""

import dataclasses

from experiments.scales import CPU, Scale
from mhmoe.data.packing import PackingConfig

MINI = dataclasses.replace(
    CPU,
    name="mini",
    purpose="tests",
    model={
        "vocab_size": 300,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
    },
    packing=PackingConfig(
        vocab_size=300,
        max_train_tokens=5000,
        tokenizer_characters=20_000,
        max_valid_tokens=400,
        max_test_tokens=400,
    ),
    training={"steps": 2, "batch_sequences": 4, "length": 16, "evaluations": 2, "evaluation_windows": 8},
    learning_rates=(0.01, 0.02),
    tuning_share=1 / 2,
    seeds=(1,),
)


def at_rate(scale: Scale, rate: float) -> Scale:
    """The scale with this one learning rate, so that nothing needs tuning."""
    return dataclasses.replace(scale, learning_rates=(rate,))
