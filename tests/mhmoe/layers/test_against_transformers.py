"""Whole mixtures with the weights of transformers' blocks: same outputs, same gradients.

The blocks are built tiny from their configs, in float32, their experts run one after the other ("eager"). What the
two count in another way is said in the modules' docstrings, and set alike here.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DeepseekV3Config, GptOssConfig, MixtralConfig, Qwen3MoeConfig, SwitchTransformersConfig
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock
from transformers.models.switch_transformers.modeling_switch_transformers import (
    SwitchTransformersSparseMLP,
    load_balancing_loss_func,
    router_z_loss_func,
)

from mhmoe.layers.balanced_router import BalancedRouterConfig
from mhmoe.layers.biased_router import BiasedRouterConfig
from mhmoe.layers.experts import ExpertsConfig, FeedForwardConfig
from mhmoe.layers.losses import balance_loss, router_z_loss
from mhmoe.layers.routers import DotProductRouterConfig
from mhmoe.layers.routing import Routing
from mhmoe.layers.sparse_moe import SparseMoE, SparseMoEConfig
from mhmoe.layers.switch_router import SwitchRouterConfig
from tests import reference

DIM, INNER = 16, 12


def ours(router: Any, activation: Any = "swiglu", bias: bool = False, **rest: Any) -> Any:
    sizes = {"dim": DIM, "num_experts": router.num_experts, "expert_dim": INNER}
    experts = ExpertsConfig(**sizes, activation=activation, bias=bias)
    layer = SparseMoEConfig(router=router, experts=experts, **rest).build()
    reference.randomise(layer, 0)
    return layer


def with_weights_of(layer: SparseMoE, block: Any) -> dict[str, tuple[nn.Parameter, Any]]:
    """Copies the router's and the stacked experts' weights to `block`; the pairs, to compare their gradients."""
    pairs = {
        "router": (layer.router.get_parameter("expert_embeddings"), block.gate.weight),
        "up": (layer.experts.up_proj, block.experts.gate_up_proj),
        "down": (layer.experts.down_proj, block.experts.down_proj),
    }
    with torch.no_grad():
        for mine, theirs in pairs.values():
            theirs.copy_(mine)
    return pairs


def gradients_agree(
    layer: SparseMoE, block: nn.Module, x: Tensor, pairs: dict[str, tuple[Any, Any]], **options: Any
) -> Routing:
    """Outputs and gradients to inputs and weights, within 1e-5 of their norm; what ours routed."""
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    output, theirs = layer(one), block(other, **options)
    cotangent = torch.randn(x.shape)
    (output.hidden * cotangent).sum().backward()
    (theirs * cotangent).sum().backward()
    assert reference.error(output.hidden, theirs) < 1e-5
    assert one.grad is not None and other.grad is not None and reference.error(one.grad, other.grad) < 1e-5
    for name, (mine, their) in pairs.items():
        if isinstance(their, list):
            expected = torch.stack([p.grad if p.grad is not None else torch.zeros_like(p) for p in their])
        else:
            expected = their.grad
        assert expected.norm() > 1e-3, name
        assert reference.error(mine.grad, expected) < 1e-5, name
    return output.routing


@pytest.mark.parametrize(("num_experts", "top_k"), [(8, 2), (4, 4), (5, 1)])
def test_a_softmax_router_with_renormalised_weights_is_mixtrals_block(num_experts: int, top_k: int) -> None:
    sizes: dict[str, Any] = {"num_local_experts": num_experts, "num_experts_per_tok": top_k}
    settings = MixtralConfig(hidden_size=DIM, intermediate_size=INNER, **sizes)
    settings._experts_implementation = "eager"
    layer = ours(DotProductRouterConfig(dim=DIM, num_experts=num_experts, top_k=top_k, renormalize=True))
    block = MixtralSparseMoeBlock(settings)
    pairs = with_weights_of(layer, block)
    if top_k == 1:
        del pairs["router"]  # a weight renormalised over one expert is 1, and has no gradient
    gradients_agree(layer, block, torch.randn(3, 7, DIM), pairs)


@pytest.mark.parametrize("renormalize", [False, True])
def test_with_and_without_renormalising_it_is_qwen3_moes_block(renormalize: bool) -> None:
    sizes = {"num_experts": 8, "num_experts_per_tok": 3, "norm_topk_prob": renormalize}
    settings = Qwen3MoeConfig(hidden_size=DIM, moe_intermediate_size=INNER, **sizes)
    settings._experts_implementation = "eager"
    layer = ours(DotProductRouterConfig(dim=DIM, num_experts=8, top_k=3, renormalize=renormalize))
    block = Qwen3MoeSparseMoeBlock(settings)
    gradients_agree(layer, block, torch.randn(3, 7, DIM), with_weights_of(layer, block))


@pytest.mark.parametrize(
    ("groups", "reached", "top_k", "renormalize", "scale"),
    [(1, 1, 3, True, 1.0), (4, 2, 3, True, 2.5), (4, 1, 2, False, 2.5), (2, 1, 8, True, 1.0)],
    ids=str,
)
def test_a_sigmoid_router_with_bias_and_groups_is_deepseek_v3s_block(
    groups: int, reached: int, top_k: int, renormalize: bool, scale: float
) -> None:
    settings = DeepseekV3Config(
        hidden_size=DIM,
        moe_intermediate_size=INNER,
        n_routed_experts=16,
        num_experts_per_tok=top_k,
        n_group=groups,
        topk_group=reached,
        n_shared_experts=2,
        norm_topk_prob=renormalize,
        routed_scaling_factor=scale,
    )
    settings._experts_implementation = "eager"
    router = BalancedRouterConfig(
        dim=DIM,
        num_experts=16,
        top_k=top_k,
        num_groups=groups,
        top_groups=reached,
        renormalize=renormalize,
        scale=scale,
    )
    layer = ours(router, shared=FeedForwardConfig(dim=DIM, inner_dim=2 * INNER, activation="swiglu"))
    block = DeepseekV3MoE(settings)
    pairs = with_weights_of(layer, block)
    bias = 0.2 * torch.rand(16)  # above 0: earlier releases gave excluded groups 0 instead of minus infinity
    x = torch.randn(4, 16, DIM)
    unbiased = layer(x).routing.index.reshape(-1, top_k).sort().values
    layer.router.get_buffer("balancing_bias").copy_(bias)
    block.gate.e_score_correction_bias.copy_(bias)
    shared: Any = layer.shared
    with torch.no_grad():
        block.shared_experts.gate_proj.weight.copy_(shared.up_proj.weight[: 2 * INNER])
        block.shared_experts.up_proj.weight.copy_(shared.up_proj.weight[2 * INNER :])
        block.shared_experts.down_proj.weight.copy_(shared.down_proj.weight)
    routing = gradients_agree(layer, block, x, pairs)
    _, weight, index = block.gate(x)
    assert torch.equal(routing.index.reshape(-1, top_k).sort().values, index.sort().values)
    assert torch.allclose(routing.weight.sum(-1).flatten(), weight.sum(-1), atol=1e-6)
    assert not torch.equal(unbiased, index.sort().values), "the bias changed nothing, so nothing was tested"
    assert ((routing.index * groups // 16).sort().values.diff() != 0).sum(-1).max() < reached


@pytest.mark.parametrize("top_k", [1, 4, 8])
def test_a_biased_router_and_clamped_experts_are_gpt_osss_block(top_k: int) -> None:
    settings = GptOssConfig(
        hidden_size=DIM, intermediate_size=INNER, num_local_experts=8, num_experts_per_tok=top_k, num_attention_heads=2
    )
    settings._experts_implementation = "eager"
    router = BiasedRouterConfig(dim=DIM, num_experts=8, top_k=top_k)
    layer = ours(router, "clamped_swiglu", bias=True)
    block: Any = GptOssMLP(settings)
    with torch.no_grad():
        layer.experts.up_proj *= 6  # so that some are cut, on either side
        block.router.weight.copy_(layer.router.get_parameter("expert_embeddings"))
        block.router.bias.copy_(layer.router.get_parameter("bias"))
        block.experts.gate_up_proj.copy_(in_turns(layer.experts.up_proj).mT)
        block.experts.gate_up_proj_bias.copy_(in_turns(layer.experts.up_bias))
        block.experts.down_proj.copy_(layer.experts.down_proj.mT)
        block.experts.down_proj_bias.copy_(layer.experts.down_bias)
    x, results = torch.randn(3, 7, DIM), list[list[Tensor]]()
    direction = torch.randn(x.shape)
    for run in (lambda rows: layer(rows).hidden, lambda rows: block(rows)[0]):
        rows = x.clone().requires_grad_()
        out = run(rows)
        (out * direction).sum().backward()
        assert rows.grad is not None
        results.append([out, rows.grad])
    inner = (x.view(-1, DIM) @ layer.experts.up_proj[0].mT + layer.experts.up_bias[0]).abs()
    assert 0.05 < (inner > 7).float().mean() < 0.95, "none or all are cut, so nothing was tested"
    theirs = dict(block.named_parameters())
    embeddings, bias = (layer.router.get_parameter(name).grad for name in ("expert_embeddings", "bias"))
    results[0] += [embeddings, bias, *(p.grad for p in (layer.experts.up_proj, layer.experts.down_proj))]
    results[0] += [layer.experts.up_bias.grad, layer.experts.down_bias.grad]
    grads = {name: p.grad for name, p in theirs.items()}
    results[1] += [grads["router.weight"], grads["router.bias"], in_halves(grads["experts.gate_up_proj"].mT)]
    results[1] += [grads["experts.down_proj"].mT, in_halves(grads["experts.gate_up_proj_bias"])]
    results[1] += [grads["experts.down_proj_bias"]]
    for i, (mine, their) in enumerate(zip(*results, strict=True)):
        if top_k > 1 or i not in (2, 3):  # at one expert the weight is 1, and the router has no gradient
            assert their.norm() > 1e-3 and reference.error(mine, their) < 1e-5, i


def in_turns(halves: Any) -> Tensor:
    """[experts, 2 inner, ...]: gate, up, gate, up, ... of the gates followed by the ups."""
    return halves.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


def in_halves(turns: Any) -> Tensor:
    return turns.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2)


@pytest.mark.parametrize("capacity", [3, 6, 40])
def test_top_1_with_a_capacity_is_switchs_block_dropped_tokens_included(capacity: int) -> None:
    settings = SwitchTransformersConfig(
        d_model=DIM,
        d_ff=INNER,
        num_experts=4,
        expert_capacity=capacity,
        router_jitter_noise=0.0,
        dropout_rate=0.0,
        dense_act_fn="gelu",
        router_dtype="float32",
    )
    factor = capacity / 10  # of an even share of 40 tokens
    layer = ours(SwitchRouterConfig(dim=DIM, num_experts=4, jitter=0.0), "gelu", capacity_factor=factor)
    block: Any = SwitchTransformersSparseMLP(settings).train()
    experts: list[Any] = [block.experts[f"expert_{i}"] for i in range(4)]
    with torch.no_grad():
        block.router.classifier.weight.copy_(layer.router.get_parameter("expert_embeddings"))
        for i, expert in enumerate(experts):
            expert.wi.weight.copy_(layer.experts.up_proj[i])
            expert.wo.weight.copy_(layer.experts.down_proj[i])
    pairs: dict[str, tuple[Any, Any]] = {
        "router": (layer.router.get_parameter("expert_embeddings"), block.router.classifier.weight),
        "up": (layer.experts.up_proj, [expert.wi.weight for expert in experts]),
        "down": (layer.experts.down_proj, [expert.wo.weight for expert in experts]),
    }
    x = torch.randn(1, 40, DIM)
    routing = gradients_agree(layer, block, x, pairs)
    chosen, _, logits = block.router(x)
    assert torch.equal(routing.kept.squeeze(-1), chosen.any(-1))
    assert bool(routing.kept.all()) == (capacity == 40)

    assert routing.scores is not None
    assert torch.allclose(router_z_loss(routing.scores), torch.as_tensor(router_z_loss_func(logits)), atol=1e-5)
    everywhere = logits.argmax(-1, keepdim=True)
    theirs = load_balancing_loss_func(logits.softmax(-1), everywhere.squeeze(-1))
    assert torch.allclose(balance_loss(routing.probabilities, everywhere), torch.as_tensor(theirs), atol=1e-5)
