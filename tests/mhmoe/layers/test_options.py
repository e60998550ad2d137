"""Options of layers and training: at their defaults they change nothing, and else what they say."""

import dataclasses
import pickle

import pytest
import torch
from torch import nn

from mhmoe.layers.absent import AbsentConfig
from mhmoe.layers.dense_mixture import DenseMixtureConfig
from mhmoe.layers.expert_choice import ExpertChoiceConfig
from mhmoe.layers.experts import ExpertsConfig, FeedForwardConfig
from mhmoe.layers.hierarchical import HierarchicalMoEConfig
from mhmoe.layers.latent import LatentConfig
from mhmoe.layers.multi_head import multi_head_moe
from mhmoe.layers.normed import NormedConfig
from mhmoe.layers.per_head import PerHeadRouterConfig
from mhmoe.layers.routers import XMoERouterConfig
from mhmoe.training.loop import make_optimizer
from tests import tiny

LAYER = multi_head_moe(dim=12, num_experts=4, expert_dim=5, moe_heads=3)
LATER = {"head_start", "merge_start", "route_by", "gate", "output_gain"}


def keys(raw: object) -> set[str]:
    return set(raw) | {k for v in raw.values() for k in keys(v)} if isinstance(raw, dict) else set()


def test_options_that_came_later_are_left_out_of_json_at_their_defaults_alone() -> None:
    assert keys(LAYER.to_dict()).isdisjoint(LATER)
    assert keys(tiny.TRAINING.to_dict()).isdisjoint({"lr_multipliers", "mup_scaled"})
    changed = LAYER.replace(head_start="identity", merge_start="orthogonal", route_by="input")
    assert keys(changed.to_dict()) & LATER == {"head_start", "merge_start", "route_by"}


def test_a_router_that_should_read_the_input_must_be_there_and_read_its_width() -> None:
    network = FeedForwardConfig(dim=4, inner_dim=8)
    with pytest.raises(ValueError, match="route_by='input' needs a mixture within, and feed_forward is none"):
        LAYER.replace(inner=network, route_by="input")
    normed = LAYER.replace(inner=NormedConfig(inner=LAYER.inner), route_by="input")
    assert normed.build()(torch.randn(3, 12)).hidden.shape == (3, 12)
    latent = LatentConfig(dim=12, inner=network, route_by="latent")
    with pytest.raises(ValueError, match="needs a mixture within"):
        latent.replace(route_by="input")
    experts = ExpertsConfig(dim=4, num_experts=3, expert_dim=5)
    dense = DenseMixtureConfig(router=XMoERouterConfig(dim=4, num_experts=3, top_k=3), experts=experts)
    for inner in (LAYER.inner, dense):
        with pytest.raises(ValueError, match="the router within reads width 4; route_by='input' gives it 12"):
            LatentConfig(dim=12, inner=inner)
    scored = LAYER.inner.replace(router=XMoERouterConfig(dim=12, num_experts=4), scored_dim=12)
    for route_by in ("input", "head_output"):
        with pytest.raises(ValueError, match=rf"the router within reads width 12; route_by='{route_by}' gives it 4"):
            LAYER.replace(inner=scored, route_by=route_by)
    with pytest.raises(ValueError, match="the router within reads width 12, and is given rows of 4"):
        HierarchicalMoEConfig(router=XMoERouterConfig(dim=4, num_experts=2), inner=scored)


def test_an_expert_choice_within_a_hierarchical_mixture_is_refused() -> None:
    chosen = ExpertChoiceConfig(
        router=XMoERouterConfig(dim=12, num_experts=2), experts=ExpertsConfig(dim=12, num_experts=2, expert_dim=5)
    )
    with pytest.raises(ValueError, match="an inner expert choice takes rows by how many it is given"):
        HierarchicalMoEConfig(router=XMoERouterConfig(dim=12, num_experts=2), inner=chosen)


@pytest.mark.parametrize("start", ["identity", "zero"])
def test_a_layer_can_be_pickled_however_it_starts(start: str) -> None:
    layer = LAYER.replace(head_start=start).build()
    again = pickle.loads(pickle.dumps(layer))
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("start", ["identity", "zero", "orthogonal", "xavier"])
def test_head_and_merge_layer_start_as_they_are_told(start: str) -> None:
    layer = LAYER.replace(head_start=start, merge_start=start).build()
    for projection, gain in ((layer.head, 0.5**0.5), (layer.merge, 1.0)):
        assert isinstance(projection, nn.Linear)
        weight = projection.weight.detach()
        gram = weight @ weight.T
        if start == "identity":
            assert torch.equal(weight, torch.eye(12))
        elif start == "zero":
            assert torch.equal(weight, torch.zeros(12, 12))
        else:
            is_orthogonal = torch.allclose(gram, gain**2 * torch.eye(12), atol=1e-5)
            assert is_orthogonal == (start == "orthogonal")
            assert weight.abs().max() <= gain * (1 if start == "orthogonal" else (6 / 24) ** 0.5)


def test_the_gain_of_the_outputs_scales_the_down_matrices_alone() -> None:
    for config in (FeedForwardConfig(dim=64, inner_dim=64), ExpertsConfig(dim=64, num_experts=2, expert_dim=64)):
        drawn: list[dict[str, torch.Tensor]] = []
        for gain in (1.0, 0.25):
            torch.manual_seed(0)
            drawn.append(dict(config.replace(output_gain=gain).build().named_parameters()))
        for name, whole in drawn[0].items():
            assert torch.allclose(drawn[1][name], whole * (0.25 if "down" in name else 1.0))


def test_the_norm_starts_at_its_gain_and_takes_the_scale_away() -> None:
    inner = FeedForwardConfig(dim=8, inner_dim=16)
    layer = NormedConfig(inner=inner, gain=0.5).build()
    hidden = layer(torch.randn(5, 8)).hidden
    assert torch.allclose(hidden.square().mean(-1).sqrt(), torch.full((5,), 0.5), atol=1e-3)


def test_no_layer_is_zero_and_has_nothing() -> None:
    config = AbsentConfig(dim=8)
    assert not AbsentConfig(dim=8).build()(torch.randn(2, 3, 8)).hidden.any()
    assert config.parameters() == config.flops_per_token() == 0


def test_every_head_reaches_its_own_experts_alone() -> None:
    router = PerHeadRouterConfig.of(XMoERouterConfig(dim=4, num_experts=5, top_k=2), heads=3)
    routing = router.build()(torch.randn(7, 3, 4))
    assert router.num_experts == 15 and torch.equal(routing.index // 5, torch.arange(3).view(1, 3, 1).expand(7, 3, 2))
    assert torch.allclose(routing.probabilities.sum(-1), torch.ones(7, 3))
    with pytest.raises(ValueError, match="has not 3 heads before its width"):
        router.build()(torch.randn(7, 4))
    with pytest.raises(ValueError, match="num_experts=14 is not that of 3 such routers"):
        router.replace(num_experts=14)


def test_the_rate_of_a_part_is_multiplied_and_no_other() -> None:
    model = tiny.model("mhmoe_compute")
    config = dataclasses.replace(tiny.TRAINING, lr_multipliers=(("head", 0.1), ("merge", 0.1), ("experts", 3.0)))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: group["lr_multiplier"]
        for group in make_optimizer(model, config).param_groups
        for parameter in group["params"]
    }
    assert found.keys() == set(names.values())
    for name, times in found.items():
        parts = name.split(".")
        assert times == (0.1 if {"head", "merge"} & set(parts) else 3.0 if "experts" in parts else 1.0), name
    with pytest.raises(ValueError, match="names 1 parts twice"):
        dataclasses.replace(config, lr_multipliers=(("head", 0.1), ("head", 0.2)))
