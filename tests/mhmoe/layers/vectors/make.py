"""Writes the test vectors: `python -m tests.mhmoe.layers.vectors.make`.

Weights and inputs come from numpy's RandomState, whose numbers are promised for all versions, everything else
from the float64 loop in tests/reference.py. Numbers are rounded to float32 where they go in, to nine digits
where they come out.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mhmoe.layers.config import Config
from mhmoe.layers.experts import ExpertsConfig, FeedForwardConfig
from mhmoe.layers.multi_head import multi_head_moe
from mhmoe.layers.routers import DotProductRouterConfig, FixedTemperatureRouterConfig, ReleasedRouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig
from tests import reference

FILE = Path(__file__).parent / "vectors.json"
BALANCE_WEIGHT = 0.5
TOKENS = 5

CASES: dict[str, Config] = {
    "mh_moe_xmoe_router": multi_head_moe(dim=8, moe_heads=2, num_experts=3, top_k=2, expert_dim=6),
    "mh_moe_released_router_biases_residual": multi_head_moe(
        dim=9,
        moe_heads=3,
        num_experts=4,
        expert_dim=5,
        bias=True,
        inner_residual=True,
        router=ReleasedRouterConfig(dim=3, num_experts=4, router_dim=4),
    ),
    "mh_moe_swiglu_norm_two_head_layers": multi_head_moe(
        dim=6,
        moe_heads=2,
        num_experts=3,
        expert_dim=4,
        activation="swiglu",
        inner_norm=True,
        head_layers=2,
        merge_layers=0,
        router=FixedTemperatureRouterConfig(dim=3, num_experts=3, top_k=2, router_dim=2, renormalize=True),
    ),
    "sparse_moe_dot_product_router_shared_network": SparseMoEConfig(
        router=DotProductRouterConfig(dim=6, num_experts=4, top_k=1),
        experts=ExpertsConfig(dim=6, num_experts=4, expert_dim=5),
        shared=FeedForwardConfig(dim=6, inner_dim=4, bias=True),
    ),
}


def case(config: Config, seed: int) -> dict[str, Any]:
    """One layer with everything another implementation needs to check itself."""
    layer, draw = config.build(), np.random.RandomState(seed)
    weights: dict[str, torch.Tensor] = {}
    for name, parameter in sorted(layer.named_parameters()):
        is_temperature = name.endswith("log_inverse_temperature")  # one number, written without an axis
        shape = () if is_temperature else tuple(parameter.shape)
        values = draw.standard_normal(shape) * max(shape[-1:], default=4) ** -0.5
        if is_temperature:
            values = np.log(1 / 0.3) + 0.2 * values
        weights[name] = leaf(values + name.endswith("inner_norm.weight"))
    width: int = config.dim  # pyright: ignore[reportAttributeAccessIssue]
    x = leaf(draw.standard_normal((TOKENS, width)))
    grad = torch.from_numpy(draw.standard_normal((TOKENS, width)).astype(np.float32)).double()
    mask = [True] * (TOKENS - 1) + [False]

    hidden, trace = reference.run(config.to_dict(), weights, x, mask)
    assert trace.balance_loss is not None
    ((hidden * grad).sum() + BALANCE_WEIGHT * trace.balance_loss).backward()
    return {
        "config": config.to_dict(),
        "weights": {name: numbers(w) for name, w in weights.items()},
        "x": numbers(x),
        "mask": mask,
        "output_gradient": numbers(grad),
        "expected": {
            "hidden": numbers(hidden),
            "balance_loss": numbers(trace.balance_loss),
            "index": trace.index,
            "probabilities": numbers(torch.stack(trace.probabilities)),
            "x_gradient": numbers(x.grad),
            "weight_gradients": {name: numbers(w.grad) for name, w in weights.items()},
        },
    }


def leaf(values: Any) -> torch.Tensor:
    """Float32 numbers in float64, so that what is written is exactly what was computed with."""
    return torch.from_numpy(np.asarray(values, dtype=np.float32)).double().requires_grad_()


def numbers(tensor: torch.Tensor | None) -> Any:
    def rounded(value: Any) -> Any:
        return [rounded(v) for v in value] if isinstance(value, list) else float(f"{value:.9g}")

    assert tensor is not None
    return rounded(tensor.detach().tolist())


def vectors() -> dict[str, Any]:
    made = {name: case(config, seed) for seed, (name, config) in enumerate(CASES.items())}
    return {"balance_weight": BALANCE_WEIGHT, "cases": made}


if __name__ == "__main__":
    FILE.write_text(json.dumps(vectors(), separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{FILE.name}: {FILE.stat().st_size:,} bytes, {len(CASES)} layers")
