"""Expert choice: against a loop in float64 over experts; of the same load for each; refused where it would cheat."""

from typing import Any

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import vmap
from torch.utils.flop_counter import FlopCounterMode

from mhmoe.layers.expert_choice import ExpertChoice, ExpertChoiceConfig
from mhmoe.layers.experts import ExpertsConfig, FeedForwardConfig
from mhmoe.layers.grouped_router import GroupedRouterConfig
from mhmoe.layers.multi_head import MultiHeadConfig
from mhmoe.layers.routers import DotProductRouterConfig, XMoERouterConfig
from mhmoe.model.config import MHMoEConfig
from tests import reference


def config(num_experts: int = 4, top_k: int = 2, router: Any = XMoERouterConfig, **style: Any) -> ExpertChoiceConfig:
    return ExpertChoiceConfig(
        router=router(dim=8, num_experts=num_experts, top_k=top_k),
        experts=ExpertsConfig(dim=8, num_experts=num_experts, expert_dim=6, **style),
    )


def make(seed: int = 0, **sizes: Any) -> ExpertChoice:
    layer = config(**sizes).build()
    reference.randomise(layer, seed)
    return layer


STYLES: list[dict[str, Any]] = [{}, {"activation": "swiglu"}, {"bias": True, "inner_norm": True}]


@settings(max_examples=25)
@given(
    rows=st.integers(1, 20),
    num_experts=st.integers(1, 6),
    top_k=st.integers(1, 6),
    style=st.sampled_from(STYLES),
    masked=st.booleans(),
    seed=st.integers(0, 999),
)
def test_every_expert_takes_the_rows_it_is_most_probable_for(
    rows: int, num_experts: int, top_k: int, style: dict[str, Any], masked: bool, seed: int
) -> None:
    sizes = config(num_experts, min(top_k, num_experts), **style)
    layer = make(seed, num_experts=num_experts, top_k=sizes.router.top_k, **style)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 8, generator=generator)
    mask = torch.rand(rows, generator=generator) < 0.7 if masked else None
    output = layer(x, mask)
    weights = {name: w.double() for name, w in layer.state_dict().items()}
    router, experts = reference.below(weights, "router"), reference.below(weights, "experts")
    gates = torch.stack(
        [reference.softmax(reference.scores(sizes.router.to_dict(), router, row)) for row in x.double()]
    )
    taken = -(-rows * sizes.router.top_k // num_experts)
    expected = torch.zeros(rows, 8, dtype=torch.float64)
    for p in range(num_experts):
        one = {name: w[p] for name, w in experts.items()}
        real = [r for r in range(rows) if mask is None or mask[r]]
        for r in sorted(real, key=lambda r: -float(gates[r, p]))[:taken]:
            assert output.routing.kept[r, p]
            expected[r] += gates[r, p] * reference.expert_network(sizes.experts.to_dict(), one, x[r].double())
    assert reference.error(output.hidden, expected) < 1e-5
    assert (output.routing.kept.sum(0) <= taken).all() and (masked or (output.routing.kept.sum(0) == taken).all())
    assert torch.equal(output.routing.weight > 0, output.routing.kept)


def test_when_every_expert_takes_all_it_is_the_densely_gated_mixture() -> None:
    layer, x = make(top_k=4), torch.randn(10, 8)
    output = layer(x)
    dense = layer.experts(x, torch.arange(4).expand(10, 4), output.routing.probabilities)
    assert output.routing.kept.all() and reference.error(output.hidden, dense) < 1e-6


def test_task_gradients_reach_router_experts_and_input_as_in_float64() -> None:
    layer = make(bias=True, inner_norm=True).double()
    x = torch.randn(9, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: layer(x).hidden, x, fast_mode=True)
    layer(x).hidden.square().sum().backward()
    assert all(p.grad is not None and p.grad.norm() > 1e-6 for p in layer.parameters())


def test_counted_flops_are_those_that_torch_counts() -> None:
    counter, layer = FlopCounterMode(display=False), config(num_experts=8, top_k=2).build()
    with counter:
        layer(torch.randn(64, 8))
    assert counter.get_total_flops() == 64 * config(num_experts=8, top_k=2).flops_per_token()


def test_a_later_row_changes_what_an_earlier_one_gets() -> None:
    """The leak that the language model refuses."""
    layer, x = make(num_experts=2, top_k=1), torch.randn(20, 8)
    favourite = layer(x).routing.probabilities[:, 0].argmax()
    changed = torch.cat([x[:10], x[favourite].expand(10, 8)])  # expert 0 has room for ten
    assert not torch.allclose(layer(x).hidden[:10], layer(changed).hidden[:10])


@pytest.mark.parametrize("heads", [1, 2])
def test_a_causal_language_model_refuses_it_in_any_depth(heads: int) -> None:
    moe = MultiHeadConfig(dim=8 * heads, heads=heads, inner=config())
    with pytest.raises(ValueError, match="expert_choice chooses by looking at later tokens"):
        MHMoEConfig(vocab_size=50, hidden_size=8 * heads, num_attention_heads=2, num_hidden_layers=2, moe=moe)


def test_routers_without_scores_and_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="needs a router that scores all experts, which grouped_router does not"):
        config(router=GroupedRouterConfig)
    with pytest.raises(ValueError, match=r"router.dim=4 and experts.dim=8 differ"):
        config().replace(router=DotProductRouterConfig(dim=4, num_experts=4))
    with pytest.raises(ValueError, match=r"shared.dim=4 is not the experts' dim=8"):
        config().replace(shared=FeedForwardConfig(dim=4, inner_dim=4))


def test_export_vmap_meta_half_precision_and_no_rows_work(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = make(bias=True), torch.randn(3, 7, 8)
    together = vmap(lambda part: layer(part).hidden)(x)
    assert torch.allclose(together, torch.stack([layer(part).hidden for part in x]), atol=1e-6)
    assert layer(x[:0]).hidden.shape == (0, 7, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x).routing.kept, make(bias=True)(x).routing.kept)
    half = make(bias=True).bfloat16()(x.bfloat16())
    assert half.hidden.dtype == torch.bfloat16 and reference.error(half.hidden, layer(x).hidden) < 0.1
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    dynamic = torch.export.Dim.DYNAMIC
    exported = torch.export.export(layer, (x,), dynamic_shapes=({0: dynamic, 1: dynamic},)).module()
    other = torch.randn(2, 11, 8)
    assert torch.allclose(exported(other)[0], layer(other).hidden, atol=1e-6)
    assert make(bias=True).to("meta")(x.to("meta")).hidden.shape == x.shape
