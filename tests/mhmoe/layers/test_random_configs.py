"""Configs drawn at random, hostile values among them: each trains for one step, or is one line of ValueError.

150 in the suite; all 2,000 with MHMOE_RANDOM_CONFIGS=2000.
"""

import math
import os
import random
from collections import Counter
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch

from mhmoe.layers.activations import ACTIVATIONS
from mhmoe.layers.config import LayerConfig, config_from_dict

COUNT = int(os.environ.get("MHMOE_RANDOM_CONFIGS", "150"))
LARGEST = 200_000  # parameters of a layer that is trained; of larger ones the shapes are followed

HOSTILE: tuple[Any, ...] = (
    *(0, -1, 2**24, 2**24 + 1, 2**63, 10**30, -(10**400), 1.5, 2.0, 0.0, 1e-9, 1e-300, 1e300),
    *(math.nan, math.inf, -math.inf, True, False, None, "", "1", "gelu\n", b"x", (), [1], {}, {"kind": "experts"}),
    *(np.int64(2), np.float32(0.5), np.bool_(True), np.array([1, 2]), torch.tensor(1), object(), 1j),
)


class Draw:
    """The JSON form of a layer's config, mostly of values that fit together."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.hostility = self.random.choice([0.0, 0.01, 0.1])

    def of(self, *choices: Any) -> Any:
        """One of these, or now and then anything."""
        return self.random.choice(HOSTILE if self.random.random() < self.hostility else choices)

    def layer(self, dim: int, depth: int = 0) -> Any:
        kinds = ("feed_forward", "sparse_moe", "residual", "multi_head", "dense_mixture", "hierarchical_moe", "latent")
        kind = self.random.choices(kinds, weights=(1, 4, 1, 4, 1, 1, 1) if depth < 2 else (1, 1, 0, 0, 1, 0, 0))[0]
        if kind == "feed_forward":
            return self.network(dim, inner_dim=self.of(1, 2, 7, 16))
        if kind == "residual":
            return {"kind": kind, "inner": self.of(self.layer(dim, depth + 1))}
        if kind == "hierarchical_moe":
            router = self.router(dim, self.random.choice([1, 2, 3]))
            return {"kind": kind, "router": self.of(router), "inner": self.of(self.layer(dim, depth + 1))}
        if kind == "latent":
            inner = self.layer(self.random.choice([1, 2, 4, 6]), depth + 1)
            flags = {
                "bias": self.of(True, False),
                "precision": self.of("full", "bitnet"),
                "route_by": self.of("latent"),
            }
            return {"kind": kind, "dim": self.of(dim), "inner": self.of(inner), **flags}
        if kind == "multi_head":
            heads = self.random.choice([n for n in range(1, dim + 1) if dim % n == 0])
            if self.random.random() < self.hostility:
                heads = self.of(3, 5)
            inner = self.layer(dim // heads if isinstance(heads, int) and 0 < heads <= dim else dim, depth + 1)
            flags = {"bias": self.of(True, False), "head_layers": self.of(0, 1, 2), "merge_layers": self.of(0, 1, 3)}
            return {"kind": kind, "dim": self.of(dim), "heads": heads, "inner": self.of(inner), **flags}
        num_experts = self.random.choice([1, 2, 3, 8, 33])
        experts = self.network(dim, num_experts=self.of(num_experts), expert_dim=self.of(1, 3, 8, 16))
        if kind == "dense_mixture":
            router = {**self.router(dim, num_experts), "top_k": self.of(num_experts)}
            return {"kind": kind, "router": self.of(router), "experts": self.of({**experts, "kind": "experts"})}
        shared = self.network(dim, inner_dim=self.of(1, 4)) if self.random.random() < 0.3 else None
        parts = {
            "router": self.of(self.router(dim, num_experts)),
            "experts": self.of({**experts, "kind": "experts"}),
            "shared": self.of(shared),
        }
        if self.random.random() < 0.1:
            return {"kind": "expert_choice", **parts}
        capacity = self.of(None, None, 0.01, 0.3, 1, 1.25, 10**6)
        overflow = self.of("drop", "next" if capacity is not None else "drop")
        names = self.random.sample(["eq10", "importance", "load", "z"], self.random.randint(0, 2))
        balance = [[name, self.of(0.1, 1)] for name in names]
        return {"kind": kind, **parts, "capacity_factor": capacity, "overflow": overflow, "balance": balance}

    def network(self, dim: int, **sizes: Any) -> dict[str, Any]:
        style = {"activation": self.of(*ACTIVATIONS), "bias": self.of(True, False)}
        style["precision"] = self.of("full", "full", "bitnet")
        return {"kind": "feed_forward", "dim": self.of(dim), "inner_norm": self.of(True, False), **style, **sizes}

    def router(self, dim: int, num_experts: int) -> dict[str, Any]:
        low = ("xmoe_router", "unit_embeddings_router", "fixed_temperature_router")
        full = (
            "dot_product_router",
            "switch_router",
            "gshard_router",
            "balanced_router",
            "grouped_router",
            "biased_router",
        )
        kind = self.of(*low, *full)
        top_k = self.of(1, num_experts, self.random.randint(1, num_experts))
        router = {"kind": kind, "dim": self.of(dim), "num_experts": self.of(num_experts), "top_k": top_k}
        if kind == "balanced_router":
            router |= {"num_groups": self.of(1, 1, 2), "scale": self.of(1.0, 2.5)}
        if kind in low:
            router["router_dim"] = self.of(1, 2, 16)
        if kind in ("xmoe_router", "fixed_temperature_router"):
            router["temperature"] = self.of(0.01, 0.3, 1, 10**6)
        return router | {"renormalize": self.of(True, False)}


def trains_for_one_step(config: LayerConfig) -> bool:
    """Whether it was trained: of what is too large for that, shapes alone are followed."""
    width: int = config.dim  # pyright: ignore[reportAttributeAccessIssue]
    device = "cpu" if config.parameters() <= LARGEST else "meta"
    with torch.device(device):
        layer, x = config.build().train(), torch.randn(2, 3, width, requires_grad=True)
    assert sum(p.numel() for p in layer.parameters()) == config.parameters()
    output = layer(x, torch.tensor([[True, True, False], [True, True, True]], device=device))
    loss = output.hidden.square().mean() + (0 if output.balance_loss is None else output.balance_loss)
    loss.backward()
    assert output.hidden.shape == x.shape
    if device == "meta":
        return False
    assert loss.isfinite() and x.grad is not None and x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters() if p.grad is not None)
    torch.optim.AdamW(layer.parameters(), lr=0.01).step()
    assert all(p.isfinite().all() for p in layer.parameters())
    assert layer(x).hidden.isfinite().all()
    return True


def outcome(seed: int) -> str:
    draw = Draw(seed)
    raw = draw.layer(dim=draw.random.choice([1, 2, 6, 8, 12]))
    try:
        config = config_from_dict(raw)
    except ValueError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert "\n" not in message and 10 < len(message) < 400, (raw, message)
        return "refused"
    assert isinstance(config, LayerConfig), raw
    torch.manual_seed(seed)
    return "trained" if trains_for_one_step(config) else "shapes followed"


def test_every_config_trains_for_one_step_or_is_one_line_of_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse other types first, in tests
    found = Counter(outcome(seed) for seed in range(COUNT))
    print(dict(found))
    assert found["trained"] > COUNT / 4 and found["refused"] > COUNT / 8, found
