"""Models small enough to train in a test, and a generated text from which they learn something.

The words' frequencies follow Zipf's law, and every other word follows from the one before it.
"""

import contextlib
import dataclasses
import resource
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from mhmoe.data.corpora import Document
from mhmoe.data.packing import PackedDataset, PackingConfig, pack
from mhmoe.layers.config import Config
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.matching import match
from mhmoe.layers.routers import XMoERouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig
from mhmoe.model.config import MHMoEConfig
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.config import TrainingConfig
from mhmoe.training.loop import seed_parameters

ROOT = Path(__file__).resolve().parent.parent
DIM = 32
PACKING = PackingConfig(vocab_size=320, max_train_tokens=20_000)
TRAINING = TrainingConfig(
    steps=30, batch_sequences=8, length=32, learning_rate=0.01, evaluations=3, evaluation_windows=16
)

_XMOE = SparseMoEConfig(
    router=XMoERouterConfig(dim=DIM, num_experts=4, router_dim=8),
    experts=ExpertsConfig(dim=DIM, num_experts=4, expert_dim=64),
)
MOE: dict[str, Config | None] = {
    "dense": None,
    "xmoe": _XMOE,
    "mhmoe_compute": match("compute", _XMOE, heads=2),
    "mhmoe_parameters": match("parameters", _XMOE, heads=2),
}
# Biases, inner norms, layer norms, no tying: whatever else has parameters, as at the paper's scale.
FULL = match(
    "parameters",
    dataclasses.replace(_XMOE, experts=_XMOE.experts.replace(bias=True, inner_norm=True)),
    heads=2,
)
FULL_OPTIONS = {"norm": "layer", "attention_bias": True, "tie_word_embeddings": False}


def checkpoint_blocks(model: Any, *, reentrant: bool) -> None:
    name = "activation_checkpointing_enable"  # since transformers 5.23; before, as its fallback
    getattr(model, name, model.gradient_checkpointing_enable)({"use_reentrant": reentrant})


def config(system: str, **options: Any) -> MHMoEConfig:
    moe = FULL if system == "full" else MOE[system]
    return MHMoEConfig(
        **{
            "vocab_size": PACKING.vocab_size,
            "hidden_size": DIM,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "feed_forward": {"kind": "feed_forward", "dim": DIM, "inner_dim": 64},
            "moe": None if moe is None else moe.to_dict(),
            **(FULL_OPTIONS if system == "full" else {}),
            **options,
        }
    )


def model(system: str, seed: int = 0, **options: Any) -> MHMoEForCausalLM:
    made = MHMoEForCausalLM(config(system, **options))
    seed_parameters(made, seed)
    return made


def text(cache: Path) -> PackedDataset:
    return pack(ZipfText(), PACKING, cache)


@dataclass(frozen=True)
class ZipfText:
    """A corpus of 300 words made of syllables. numpy promises RandomState's numbers for all versions."""

    kind: ClassVar[str] = "zipf"
    documents_per_split: int = 60

    def documents(self, split: str) -> Iterator[Document]:
        words = np.random.RandomState(0)
        syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
        spelling = ["".join(words.choice(syllables, words.randint(1, 4))) for _ in range(300)]
        follower = words.permutation(300)
        frequency = 1 / np.arange(1, 301)
        draw = np.random.RandomState([1, *split.encode()])
        for i in range(self.documents_per_split * (5 if split == "train" else 1)):
            sequence = draw.choice(300, draw.randint(2, 120), p=frequency / frequency.sum())
            sequence[1::2] = follower[sequence[:-1:2]]
            yield Document(" ".join(spelling[w] for w in sequence), "zipf", f"{split}-{i}")

    def fingerprint(self) -> dict[str, Any]:
        return {"kind": self.kind, "documents": self.documents_per_split}


def gradients(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def difference(ours: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> float:
    """Largest distance of two tensors of the same name, relative to the largest norm of the reference."""
    assert ours.keys() == reference.keys() and ours
    scale = max(float(tensor.norm()) for tensor in reference.values())
    return max(float((ours[name] - reference[name]).norm()) for name in ours) / scale


def worst_tensor(ours: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> float:
    """Largest distance of two tensors of the same name, each relative to its own norm."""
    return max(difference({name: ours[name]}, {name: reference[name]}) for name in reference)


@contextlib.contextmanager
def full_disk(limit: int) -> Generator[None]:
    """No file of this process grows beyond `limit` bytes: the system refuses the write, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
