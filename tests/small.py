"""Language models of every kind of feed-forward layer, small enough to build in a test."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from mhmoe.layers.config import Config
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.matching import Matching, match
from mhmoe.layers.multi_head import multi_head_moe
from mhmoe.layers.routers import XMoERouterConfig
from mhmoe.layers.sparse_moe import ResidualConfig, SparseMoEConfig
from mhmoe.model.config import MHMoEConfig

DIM = 24


def xmoe(style: bool = False, activation: str = "gelu") -> SparseMoEConfig:
    return SparseMoEConfig(
        router=XMoERouterConfig(dim=DIM, num_experts=4, top_k=1),
        experts=ExpertsConfig(
            dim=DIM,
            num_experts=4,
            expert_dim=4 * DIM,
            activation=activation,  # pyright: ignore[reportArgumentType]
            bias=style,
            inner_norm=style,
        ),
    )


def matched(matching: Matching, heads: int = 2, top_k: int = 1, **style: Any) -> Config:
    return match(matching, xmoe(**style), heads=heads, top_k=top_k)


MOE: dict[str, Config | None] = {
    "dense": None,
    "xmoe": xmoe(),
    "xmoe with biases and norms": xmoe(style=True),
    "mhmoe equation": matched("equation"),
    "mhmoe parameters": matched("parameters", heads=3, style=True),
    "mhmoe compute": matched("compute", top_k=2, activation="swiglu"),
    "mhmoe residual, deep": ResidualConfig(
        inner=multi_head_moe(
            dim=DIM,
            num_experts=4,
            expert_dim=8,
            moe_heads=4,
            head_layers=3,
            merge_layers=2,
            inner_residual=True,
        )
    ),
    "mhmoe bare": multi_head_moe(dim=DIM, num_experts=4, expert_dim=8, moe_heads=4, head_layers=0, merge_layers=0),
}
every_system = pytest.mark.parametrize("system", MOE)


def make_config(system: str = "mhmoe compute", **changes: Any) -> MHMoEConfig:
    moe = MOE[system]
    sizes: dict[str, Any] = {
        "vocab_size": 61,
        "hidden_size": DIM,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
        "moe": None if moe is None else moe.to_dict(),
        "eos_token_id": None,
    }
    return MHMoEConfig(**sizes | changes)


def make(system: str = "mhmoe compute", seed: int = 0, attention: str = "sdpa", **changes: Any) -> Any:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(make_config(system, **changes), attn_implementation=attention)
    return model.eval()


def tokens(batch: int = 2, length: int = 9) -> Tensor:
    return torch.randint(1, 61, (batch, length))


def gradients(model: Any, ids: Tensor, **inputs: Any) -> dict[str, Tensor]:
    model.zero_grad()
    model(ids, labels=ids, **inputs).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
