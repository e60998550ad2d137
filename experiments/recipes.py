"""The four scales, and the systems that are compared.

All systems of a scale share model, text, data order, steps and optimiser; they differ in the
feed-forward config of their MoE blocks alone. Numbers that follow from others are not written here: sizes
of MH-MoE are solved in mhmoe.matching, learning rates are chosen on `valid` (learning_rates.py).
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from baselines.dense import dense as dense_config
from baselines.xmoe import xmoe as xmoe_config
from experiments.schema import Scale, Style, System, Text
from mhmoe.configs import Config
from mhmoe.corpora import SLIMPAJAMA, EmbeddedCorpus, HubCorpus, LocalCorpus
from mhmoe.matching import Reading, match, with_sizes
from mhmoe.multi_head import MultiHeadConfig
from mhmoe.multilingual import MultilingualCorpus
from mhmoe.packing import PackingConfig
from mhmoe.sparse_moe import SparseMoEConfig

HEADS = 4

SMOKE = Scale(
    name="smoke",
    purpose="CI and first contact: minutes on two cores, text from the environment's own documentation",
    model={
        "vocab_size": 512,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    },
    style=Style(),
    corpus=lambda: EmbeddedCorpus(max_characters=2_000_000),
    packing=PackingConfig(
        vocab_size=512,
        max_train_tokens=130_000,
        tokenizer_characters=500_000,
        max_valid_tokens=20_000,
        max_test_tokens=20_000,
    ),
    training={"steps": 60, "batch_sequences": 32, "length": 64, "evaluations": 5, "evaluation_windows": 64},
    learning_rates=(8e-3,),
    seeds=(1,),
    texts={
        "multilingual": Text(
            corpus=MultilingualCorpus,  # no generated text stands for fourteen languages: it wants MHMOE_DATA
            packing=PackingConfig(
                vocab_size=1024,
                max_train_tokens=130_000,
                tokenizer_characters=500_000,
                max_valid_tokens=20_000,
                max_test_tokens=20_000,
            ),
            seeds=(1,),
        )
    },
)

CPU = Scale(
    name="cpu",
    purpose="a laptop; the default. Trends, not the paper's numbers",
    model={
        "vocab_size": 2048,
        "hidden_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
    },
    style=Style(),
    corpus=LocalCorpus,
    packing=PackingConfig(
        vocab_size=2048, max_train_tokens=2_000_000, max_valid_tokens=200_000, max_test_tokens=400_000
    ),
    training={
        "steps": 976,
        "batch_sequences": 16,
        "length": 128,
        "precision": "bfloat16",
        "evaluations": 10,
        "evaluation_windows": 128,
    },
    learning_rates=(2e-3, 4e-3, 8e-3, 1.6e-2),
    tuning_share=1 / 4,
    seeds=(1, 2, 3, 4, 5),
    texts={
        "multilingual": Text(
            corpus=MultilingualCorpus,
            packing=PackingConfig(
                vocab_size=4096, max_train_tokens=2_000_000, max_valid_tokens=200_000, max_test_tokens=400_000
            ),
            seeds=(1, 2, 3),
        )
    },
)

GPU = Scale(
    name="gpu",
    purpose="one large GPU, a few minutes a run",
    model={
        "vocab_size": 16_384,
        "hidden_size": 384,
        "num_hidden_layers": 8,
        "num_attention_heads": 6,
        "max_position_embeddings": 512,
    },
    style=Style(),
    corpus=LocalCorpus,
    packing=PackingConfig(
        vocab_size=16_384, max_train_tokens=28_000_000, max_valid_tokens=400_000, max_test_tokens=400_000
    ),
    training={
        "steps": 2746,
        "batch_sequences": 64,
        "length": 512,
        "precision": "bfloat16",
        "compile": True,
        "evaluations": 20,
        "evaluation_windows": 128,
    },
    learning_rates=(5e-4, 1e-3, 2e-3),
    seeds=(1, 2, 3),
    device="cuda",
    texts={
        "multilingual": Text(
            corpus=MultilingualCorpus,
            packing=PackingConfig(
                vocab_size=16_384, max_train_tokens=28_000_000, max_valid_tokens=400_000, max_test_tokens=400_000
            ),
            seeds=(1, 2, 3),
        )
    },
)

PAPER = Scale(
    name="paper",
    purpose="a cluster: v1's sizes, whose parameter counts equal its Table 11",
    model={
        "vocab_size": 100_277,  # cl100k_base
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 2048,
        "norm": "layer",
        "attention_bias": True,
    },
    style=Style(bias=True, inner_norm=True),
    corpus=lambda: HubCorpus(dataset=SLIMPAJAMA, revision=hub_revision()),
    packing=PackingConfig(
        vocab_size=100_277,
        max_train_tokens=6_000_000_000,
        max_valid_tokens=4_000_000,
        max_test_tokens=4_000_000,
    ),
    training={
        "steps": 250_000,
        "batch_sequences": 512,
        "length": 2048,
        "micro_batches": 8,
        "warmup": 0.04,
        "precision": "bfloat16",
        "compile": True,
        "evaluations": 50,
    },
    learning_rates=(5e-4,),
    seeds=(1,),
    multiple_of=1,
    device="cuda",
)

SCALES = {scale.name: scale for scale in (SMOKE, CPU, GPU, PAPER)}


@cache
def paper_numbers() -> dict[str, Any]:
    """Every number printed in the two papers' tables, with their names as keys."""
    return json.loads((Path(__file__).parent / "paper.json").read_text())


def hub_revision() -> str:
    """The pinned revision of the paper scale's text, from MHMOE_HUB_REVISION; recorded with every run."""
    return os.environ.get("MHMOE_HUB_REVISION", "")


def dense() -> System:
    return System("dense", "Dense", lambda scale: None)


def xmoe(num_experts: int, top_k: int = 1, *, seeds: int | None = None, width: int | None = None) -> System:
    """X-MoE; with top_k = h it is the control of MH-MoE's gain. `width` replaces the scale's model width."""
    name = f"xmoe_{num_experts}" + (f"_k{top_k}" if top_k > 1 else "")
    label = f"X-MoE, {num_experts} experts" + (f", k = {top_k} (control)" if top_k > 1 else "")
    return _system(name, label, lambda scale: reference(scale, num_experts, top_k), seeds, width)


def mhmoe(
    num_experts: int,
    reading: Reading,
    heads: int = HEADS,
    *,
    top_k: int = 1,
    layers: int = 1,
    seeds: int | None = None,
    width: int | None = None,
) -> System:
    """MH-MoE of the size of X-MoE top-1 with `num_experts` experts, under a reading of that.

    heads=1 splits nothing; `layers` is the depth of the head and the merge MLP, 0 leaves them out.
    """
    name = f"mhmoe_{num_experts}_{reading}" + (f"_h{heads}" if heads != HEADS else "")
    label = f"MH-MoE, {num_experts} experts, h = {heads}"
    if top_k > 1:
        name, label = f"{name}_k{top_k}", f"{label}, k = {top_k}"
    if layers != 1:
        name, label = f"{name}_n{layers}", f"{label}, {layers or 'no'} MLP layers"

    def layer(scale: Scale) -> Config:
        base = reference(scale, num_experts)
        printed = reading == "parameters" and (heads, top_k, layers, width) == (HEADS, 1, 1, None)
        if printed and scale.name == PAPER.name:
            return table11_layer(num_experts)
        return match(reading, base, heads=heads, top_k=top_k, layers=layers, multiple_of=scale.multiple_of)

    return _system(name, f"{label}, `{reading}`", layer, seeds, width)


def with_layers(system: System) -> System:
    """The system with a head and a merge layer around its MoE, nothing split and nothing matched (v1 Table 6).

    Under "Dense" they go around the feed-forward networks that MoE layers would replace.
    """

    def layer(scale: Scale) -> Config:
        inner = system.layer(scale) or dense_layer(scale)
        return MultiHeadConfig(dim=scale.model["hidden_size"], heads=1, inner=inner)

    return System(f"{system.name}_mlp", f"{system.label}, with MLP layers", layer, system.seeds)


def varied(
    system: System,
    name: str,
    label: str,
    *,
    moe: Callable[[SparseMoEConfig], Config] | None = None,
    model: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    rate_factor: float = 1.0,
) -> System:
    """The system with one thing changed, at the learning rate of the unchanged one.

    moe: changes the sparse MoE, inside the heads where there are some. model, training: as in System.
    """

    def layer(scale: Scale) -> Config | None:
        whole = system.layer(scale)
        if moe is None:
            return whole
        if isinstance(whole, MultiHeadConfig):
            assert isinstance(whole.inner, SparseMoEConfig)
            return whole.replace(inner=moe(whole.inner))
        assert isinstance(whole, SparseMoEConfig)
        return moe(whole)

    return System(
        f"{system.name}_{name}",
        f"{system.label}, {label}",
        layer,
        seeds=1,
        model={**system.model, **(model or {})},
        training={**system.training, **(training or {})},
        tuned_as=system,
        rate_factor=rate_factor,
    )


def as_tuned(system: System, other: System) -> System:
    """One seed of a system, at the learning rate of another."""
    return dataclasses.replace(system, seeds=1, tuned_as=other)


def _system(name: str, label: str, layer: Callable[[Scale], Config], seeds: int | None, width: int | None) -> System:
    if width is None:
        return System(name, label, layer, seeds)
    return System(f"{name}_w{width}", f"{label}, width {width}", layer, seeds, {"hidden_size": width})


def reference(scale: Scale, num_experts: int, top_k: int = 1) -> SparseMoEConfig:
    """The X-MoE layer at a scale."""
    style = scale.style
    return xmoe_config(
        scale.model["hidden_size"],
        num_experts,
        top_k,
        activation=style.activation,
        bias=style.bias,
        inner_norm=style.inner_norm,
    )


def dense_layer(scale: Scale) -> Config:
    """The feed-forward network of ordinary blocks. Its inner norm is left to the experts (v1 Table 11)."""
    return dense_config(scale.model["hidden_size"], scale.style.activation, scale.style.bias)


def table11_layer(num_experts: int) -> Config:
    """MH-MoE as v1 Table 11 prints it (h = 4): the inner width follows from the printed expert parameters."""
    millions = paper_numbers()["v1_table11_parameters_millions"]["english"]["mhmoe"][str(num_experts)][1]
    base = reference(PAPER, num_experts)
    blocks = PAPER.model["num_hidden_layers"] // 2

    def experts(width: int) -> int:
        layer = with_sizes(base, heads=HEADS, top_k=1, expert_dim=width, num_experts=num_experts)
        assert isinstance(layer.inner, SparseMoEConfig)
        return blocks * layer.inner.experts.parameters()

    per_width = experts(2) - experts(1)
    width = round(1 + (millions * 1e6 - experts(1)) / per_width)
    return with_sizes(base, heads=HEADS, top_k=1, expert_dim=width, num_experts=num_experts)
