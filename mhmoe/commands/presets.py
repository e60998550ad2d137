"""Sizes by name: a model, how it is trained, and how much of a text it reads.

The scales of experiments/scales.py take models, networks and batches from here: committed records are of them. Learning
rates are as MH-MoE's runs at those scales chose them. `paper` has v1's sizes (Table 11). Rates of wider models follow
from that of laptop by muP (`base_width`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mhmoe.io import UserError


@dataclass(frozen=True, kw_only=True)
class Preset:
    """model, training: arguments of MHMoEConfig and TrainingConfig. network: of all feed-forward networks. epochs: how
    often the text is read, as long as that is no more than `max_tokens`. multiple_of: inner widths are multiples."""

    purpose: str
    model: Mapping[str, Any]
    training: Mapping[str, Any]
    max_tokens: int
    epochs: float = 4.0
    network: Mapping[str, Any] = field(default_factory=dict[str, Any])
    multiple_of: int = 8


PRESETS = {
    "smoke": Preset(
        purpose="seconds: width 48, 2 blocks, context 64, 512 symbols; 4 epochs, at most 0.12M tokens",
        model={
            "vocab_size": 512,
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
        },
        training={
            "batch_sequences": 32,
            "length": 64,
            "learning_rate": 8e-3,
            "evaluations": 5,
            "evaluation_windows": 64,
        },
        max_tokens=120_000,
    ),
    "laptop": Preset(
        purpose="minutes on two cores: width 96, 4 blocks, context 128, 2,048 symbols; 4 epochs, at most 1.5M tokens",
        model={
            "vocab_size": 2048,
            "hidden_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
        },
        training={"batch_sequences": 16, "length": 128, "learning_rate": 8e-3, "evaluation_windows": 128},
        max_tokens=1_500_000,
    ),
    "gpu": Preset(
        purpose="minutes on a GPU: width 384, 8 blocks, context 512, 16,384 symbols; 4 epochs, at most 30M tokens",
        model={
            "vocab_size": 16_384,
            "hidden_size": 384,
            "num_hidden_layers": 8,
            "num_attention_heads": 6,
            "max_position_embeddings": 512,
        },
        training={
            "batch_sequences": 16,
            "length": 512,
            "learning_rate": 8e-3,
            "base_width": 96,
            "evaluation_windows": 64,
        },
        max_tokens=30_000_000,
    ),
    "paper": Preset(
        purpose="a cluster: v1's width 768, 12 blocks, context 2,048, 32,768 symbols; 1 epoch, at most 250B tokens",
        model={
            "vocab_size": 32_768,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "max_position_embeddings": 2048,
            "norm": "layer",
            "attention_bias": True,
        },
        training={
            "batch_sequences": 512,
            "length": 2048,
            "learning_rate": 5e-4,
            "micro_batches": 8,
            "compile": True,
            "evaluations": 50,
        },
        epochs=1.0,
        max_tokens=250_000_000_000,
        network={"bias": True, "inner_norm": True},
        multiple_of=1,
    ),
}


def preset_named(name: str) -> Preset:
    """Raises UserError if there is none."""
    if name not in PRESETS:
        raise UserError(f"preset={name!r} is not known; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
