"""Mixtures of all experts, of mixtures, in a latent space, of cut experts: each against its equation."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mhmoe.layers.balanced_router import BalancedRouterConfig
from mhmoe.layers.dense_mixture import DenseMixtureConfig
from mhmoe.layers.experts import ExpertsConfig, FeedForwardConfig
from mhmoe.layers.fine_grained import fine_grained
from mhmoe.layers.hierarchical import HierarchicalMoE, HierarchicalMoEConfig
from mhmoe.layers.latent import LatentConfig, latent_moe
from mhmoe.layers.normed import NormedConfig
from mhmoe.layers.routers import DotProductRouterConfig, RouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig
from tests import reference

DIM = 12


def router(dim: int = DIM, num_experts: int = 4, top_k: int = 2, **rest: Any) -> RouterConfig:
    return DotProductRouterConfig(dim=dim, num_experts=num_experts, top_k=top_k, **rest)


def experts(dim: int = DIM, num_experts: int = 4, expert_dim: int = 8, **style: Any) -> ExpertsConfig:
    return ExpertsConfig(dim=dim, num_experts=num_experts, expert_dim=expert_dim, **style)


def sparse(dim: int = DIM, **rest: Any) -> SparseMoEConfig:
    return SparseMoEConfig(router=router(dim), experts=experts(dim), **rest)


def gradients(output: Any, layer: nn.Module) -> list[Tensor]:
    layer.zero_grad()
    output.hidden.square().sum().backward()
    return [p.grad.clone() for p in layer.parameters() if p.grad is not None]


# All experts


def test_the_densely_gated_mixture_is_its_three_lines() -> None:
    layer, x = DenseMixtureConfig(router=router(top_k=4), experts=experts()).build(), torch.randn(5, 7, DIM)
    reference.randomise(layer, 0)
    gate = torch.softmax(x @ layer.router.expert_embeddings.T, dim=-1)  # pyright: ignore
    every = [
        torch.nn.functional.gelu(x @ up.T) @ down.T
        for up, down in zip(layer.experts.up_proj, layer.experts.down_proj, strict=True)
    ]
    expected = torch.stack([gate[..., p : p + 1] * every[p] for p in range(4)]).sum(0)
    output = layer(x)
    assert reference.error(output.hidden, expected) < 1e-6
    wanted = torch.autograd.grad(expected.square().sum(), list(layer.parameters()))  # pyright: ignore
    for ours, theirs in zip(gradients(output, layer), wanted, strict=True):
        assert reference.error(ours, theirs) < 1e-5
    assert torch.equal(output.routing.index.sort(-1).values, torch.arange(4).expand(5, 7, 4))
    assert torch.allclose(output.routing.weight.sum(-1), torch.ones(5, 7))
    assert output.balance_loss is None


@pytest.mark.parametrize("style", [{}, {"activation": "swiglu", "bias": True, "inner_norm": True}], ids=str)
@pytest.mark.parametrize("gate", [{}, {"gate": "sigmoid"}, {"renormalize": True}], ids=str)
def test_it_is_the_sparse_mixture_that_chooses_all_of_its_experts(style: dict[str, Any], gate: dict[str, Any]) -> None:
    parts: dict[str, Any] = {"router": router(top_k=4, **gate), "experts": experts(**style)}
    one, other = DenseMixtureConfig(**parts).build(), SparseMoEConfig(**parts).build()
    reference.randomise(one, 0)
    other.load_state_dict(one.state_dict())
    x, mask = torch.randn(9, DIM), torch.rand(9) < 0.7
    assert reference.error(one(x, mask).hidden, other(x, mask).hidden) < 1e-6
    for ours, theirs in zip(gradients(one(x, mask), one), gradients(other(x, mask), other), strict=True):
        assert reference.error(ours, theirs) < 1e-5
    assert other(x).balance_loss.item() == pytest.approx(1)  # whatever the gates are: no balance to learn


def test_a_router_that_leaves_experts_out_is_refused_there() -> None:
    with pytest.raises(ValueError, match=r"router.top_k=2 is not num_experts=4: every expert is used here"):
        DenseMixtureConfig(router=router(), experts=experts())


# Mixtures of mixtures


def hierarchy(seed: int = 0, **rest: Any) -> HierarchicalMoE:
    config = HierarchicalMoEConfig(router=router(num_experts=3, **rest), inner=sparse())
    layer = config.build()
    reference.randomise(layer, seed)
    return layer


def test_a_mixture_of_mixtures_is_the_double_sum_of_products_of_gates() -> None:
    layer, x = hierarchy(), torch.randn(8, DIM)
    weights = {name: tensor.double() for name, tensor in layer.state_dict().items()}
    outer, inner_router = router(num_experts=3).to_dict(), router().to_dict()
    expected: list[Tensor] = []
    for row in x.double():
        g = reference.softmax(reference.scores(outer, reference.below(weights, "router"), row))
        out = torch.zeros(DIM, dtype=torch.float64)
        for i in reference.best(g.tolist(), 2):
            inner = reference.below(weights, f"inner.{i}")
            g_i = reference.softmax(reference.scores(inner_router, reference.below(inner, "router"), row))
            for j in reference.best(g_i.tolist(), 2):
                one = {name: tensor[j] for name, tensor in reference.below(inner, "experts").items()}
                out += g[i] * g_i[j] * reference.expert_network(experts().to_dict(), one, row)
        expected.append(out)
    assert reference.error(layer(x).hidden, torch.stack(expected)) < 1e-6


def test_an_inner_mixture_sees_the_rows_alone_that_were_sent_to_it() -> None:
    layer, x = hierarchy(), torch.randn(2, 9, DIM)
    seen: list[Tensor] = []
    for inner in layer.inner:
        inner.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    layer(x)
    index = layer.router(x).index.view(-1, 2)
    for i, rows in enumerate(seen):
        assert torch.equal(rows, x.view(-1, DIM)[(index == i).any(-1)])
    assert sum(len(rows) for rows in seen) == 2 * 18


def test_chosen_rows_and_all_rows_with_a_mask_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x, mask = hierarchy(), torch.randn(3, 6, DIM), torch.rand(3, 6) < 0.8
    found = []
    for eager in (True, False):
        monkeypatch.setattr("mhmoe.layers.hierarchical.numbers_may_be_read", lambda _, eager=eager: eager)
        layer.zero_grad()
        output = layer(x, mask)
        (output.hidden.square().sum() + output.balance_loss).backward()
        found.append([output.hidden, output.balance_loss, *(p.grad.clone() for p in layer.parameters())])  # pyright: ignore
    for one, other in zip(*found, strict=True):
        assert reference.error(one, other) < 1e-5


def test_the_balance_loss_of_two_even_levels_is_one_and_of_one_leaf_is_large() -> None:
    layer = hierarchy(top_k=1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    even = layer(torch.randn(40, DIM)).balance_loss.item()
    assert even == pytest.approx(1)
    with torch.no_grad():
        for part in (layer.router, *(inner.router for inner in layer.inner)):
            part.expert_embeddings[0] = 50.0  # pyright: ignore
    one = layer(torch.rand(40, DIM)).balance_loss.item()
    assert one == pytest.approx(12 / 2, rel=0.01)  # of 12 leaves one has all, and half of the selections, two a row


def test_the_routing_of_a_hierarchy_is_over_its_leaves_with_the_products_of_both_levels_gates() -> None:
    layer, x = hierarchy(), torch.randn(2, 9, DIM)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 4:] = False
    routing = layer(x, mask).routing
    first = layer.router(x)
    second = [inner.router(x) for inner in layer.inner]  # pyright: ignore
    assert routing.index.shape == (2, 9, 4) and routing.probabilities.shape == (2, 9, 12)
    for b, t in zip(*mask.nonzero(as_tuple=True), strict=True):
        expected = (first.probabilities[b, t] / 4).repeat_interleave(4)
        slot = 0
        for g, i in zip(first.weight[b, t], first.index[b, t].tolist(), strict=True):
            inner = second[i]
            expected[4 * i : 4 * i + 4] = first.probabilities[b, t, i] * inner.probabilities[b, t]
            assert routing.index[b, t, slot : slot + 2].tolist() == (4 * i + inner.index[b, t]).tolist()
            assert torch.allclose(routing.weight[b, t, slot : slot + 2], g * inner.weight[b, t], atol=1e-6)
            slot += 2
        assert torch.allclose(routing.probabilities[b, t], expected, atol=1e-6)
    assert torch.allclose(routing.probabilities.sum(-1), torch.ones(2, 9), atol=1e-6)
    assert torch.equal(routing.kept, mask.unsqueeze(-1).expand(2, 9, 4)) and not routing.weight[~mask].any()


def test_a_hierarchys_importance_loss_is_equation_13_of_shazeer() -> None:
    config = HierarchicalMoEConfig(
        router=router(num_experts=3, top_k=3), inner=sparse(), balance=(("importance", 1.0),)
    )
    layer, x = config.build(), torch.randn(20, DIM)
    reference.randomise(layer, 0)
    first = layer.router(x).probabilities
    importance = torch.cat([(first[:, i : i + 1] * layer.inner[i].router(x).probabilities).sum(0) for i in range(3)])  # pyright: ignore
    squared = importance.var(correction=0) / importance.mean() ** 2
    assert torch.allclose(layer(x).balance_loss, squared, atol=1e-5)


def test_a_hierarchy_refuses_losses_that_it_cannot_have() -> None:
    with pytest.raises(ValueError, match="balance='z' needs scores of all leaves"):
        HierarchicalMoEConfig(router=router(num_experts=3), inner=sparse(), balance=(("z", 1.0),))
    with pytest.raises(ValueError, match="an inner mixture's balance is not used here"):
        HierarchicalMoEConfig(router=router(num_experts=3), inner=sparse().replace(balance=()))


def test_both_levels_of_a_hierarchy_step_their_biases_by_their_own_part_of_the_load() -> None:
    outer = BalancedRouterConfig(dim=DIM, num_experts=2, bias_step=0.01)
    inner = SparseMoEConfig(router=outer, experts=experts(num_experts=2))
    layer = HierarchicalMoEConfig(router=outer, inner=NormedConfig(inner=inner)).build()
    layer.rebalance(torch.tensor([0.5, 0.2, 0.1, 0.2]))
    biases = [buffer.tolist() for name, buffer in layer.named_buffers() if name.endswith("balancing_bias")]
    assert [[round(100 * b) for b in one] for one in biases] == [[-1, 1], [-1, 1], [1, -1]]


def test_active_parameters_of_a_mixture_of_mixtures_are_those_of_the_chosen_leaves() -> None:
    config = HierarchicalMoEConfig(router=router(num_experts=3), inner=sparse())
    leaf, second = 2 * DIM * 8, 4 * DIM
    assert config.active_parameters() == 3 * DIM + 2 * (second + 2 * leaf)
    assert config.active_parameters(rows=2) == 3 * DIM + (second + 4 * leaf) + 2 * (second + 2 * leaf)
    assert config.active_parameters(rows=9) == config.parameters()


def test_a_first_router_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"router.dim=5 is not the inner layers' dim=12"):
        HierarchicalMoEConfig(router=router(5), inner=sparse())


# In a narrow space


def latent_reference(layer: Any, x: Tensor, config: LatentConfig, normed: bool) -> Tensor:
    """One row at a time in float64: projection, weighted sum, norm, projection, shared network."""
    weights = {name: tensor.double() for name, tensor in layer.state_dict().items()}
    inner = reference.below(weights, "inner.inner" if normed else "inner")
    outs: list[Tensor] = []
    for row in x.double():
        narrow = weights["to_latent.weight"] @ row
        g = reference.softmax(reference.scores(router(DIM).to_dict(), reference.below(inner, "router"), row))
        out = torch.zeros(len(narrow), dtype=torch.float64)
        for p in reference.best(g.tolist(), 2):
            one = {name: tensor[p] for name, tensor in reference.below(inner, "experts").items()}
            out += g[p] * reference.expert_network(experts(5).to_dict(), one, narrow)
        if normed:
            out = weights["inner.norm.weight"] * out / math.sqrt(float((out * out).mean()) + 1e-6)
        assert config.shared is not None
        shared = reference.dense_network(config.shared.to_dict(), reference.below(weights, "shared"), row)
        outs.append(weights["from_latent.weight"] @ out + shared)
    return torch.stack(outs)


@pytest.mark.parametrize("normed", [False, True], ids=["as published", "with the norm of Kimi K3"])
def test_latent_experts_read_the_narrow_row_and_their_router_the_whole_one(normed: bool) -> None:
    shared = FeedForwardConfig(dim=DIM, inner_dim=6)
    config = latent_moe(router(), experts(5), shared=shared, normed=normed)
    layer, x = config.build(), torch.randn(8, DIM)
    reference.randomise(layer, 0)
    assert reference.error(layer(x).hidden, latent_reference(layer, x, config, normed)) < 1e-6


def test_the_norm_stands_before_the_projection_up_and_costs_one_gain_a_number() -> None:
    plain, normed = latent_moe(router(), experts(5)), latent_moe(router(), experts(5), normed=True)
    assert isinstance(normed.inner, NormedConfig) and normed.inner.inner == plain.inner
    assert normed.parameters() == plain.parameters() + 5 and normed.flops_per_token() == plain.flops_per_token()


def test_a_router_in_the_narrow_space_costs_less_by_its_width() -> None:
    wide = latent_moe(router(), experts(5))
    narrow = LatentConfig(dim=DIM, inner=sparse(5), route_by="latent")
    assert wide.parameters() - narrow.parameters() == 4 * (DIM - 5)


def test_widths_that_do_not_fit_in_a_latent_mixture_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shared.dim=5 is not dim=12"):
        latent_moe(router(), experts(5), shared=FeedForwardConfig(dim=5, inner_dim=4))
    with pytest.raises(ValueError, match=r"scored_dim=9 is not router.dim=12"):
        SparseMoEConfig(router=router(), experts=experts(5), scored_dim=9)
    with pytest.raises(ValueError, match=r"router.dim=12 and experts.dim=5 differ"):
        SparseMoEConfig(router=router(), experts=experts(5))


# Cut experts


@pytest.mark.parametrize("shared", [0, 1, 2])
def test_cut_experts_have_the_same_expert_parameters_and_flops(shared: int) -> None:
    whole = sparse()
    cut = fine_grained(whole, by=4, shared=shared)
    assert cut.experts.num_experts == 16 - shared and cut.router.top_k == 8 - shared and cut.experts.expert_dim == 2

    for count in ("parameters", "active_parameters", "flops_per_token"):
        router_count = "parameters" if count == "active_parameters" else count
        apart = [getattr(c, count)() - getattr(c.router, router_count)() for c in (whole, cut)]
        assert apart[0] == apart[1], count


def test_an_expert_is_the_sum_of_the_parts_into_which_it_is_cut() -> None:
    whole = SparseMoEConfig(router=router(num_experts=1, top_k=1), experts=experts(num_experts=1)).build()
    cut = fine_grained(
        SparseMoEConfig(router=router(num_experts=1, top_k=1), experts=experts(num_experts=1)), by=4
    ).build()
    reference.randomise(whole, 0)
    with torch.no_grad():
        cut.router.expert_embeddings.zero_()  # pyright: ignore  # four gates of a quarter
        cut.experts.up_proj.copy_(whole.experts.up_proj.view(4, 2, DIM))
        cut.experts.down_proj.copy_(4 * whole.experts.down_proj.view(DIM, 4, 2).transpose(0, 1))
    x = torch.randn(6, DIM)
    assert reference.error(cut(x).hidden, whole(x).hidden) < 1e-6


def test_two_shared_networks_are_one_of_both_widths() -> None:
    first, second = (FeedForwardConfig(dim=DIM, inner_dim=6, activation="swiglu").build() for _ in range(2))
    both, x = FeedForwardConfig(dim=DIM, inner_dim=12, activation="swiglu").build(), torch.randn(5, DIM)
    with torch.no_grad():
        halves = [network.up_proj.weight.chunk(2) for network in (first, second)]
        both.up_proj.weight.copy_(torch.cat([half[i] for i in range(2) for half in halves]))
        both.down_proj.weight.copy_(torch.cat([first.down_proj.weight, second.down_proj.weight], dim=1))
    assert reference.error(both(x).hidden, first(x).hidden + second(x).hidden) < 1e-6


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ({"by": 3}, "by=3 does not divide expert_dim=8"),
        ({"by": 0}, "by=0 does not divide expert_dim=8"),
        ({"by": 2, "shared": 4}, "shared=4 leaves none of 4 chosen experts to route"),
    ],
)
def test_a_cut_that_leaves_nothing_is_refused(cut: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fine_grained(sparse(), **cut)
