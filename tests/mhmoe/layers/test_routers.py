"""What every router promises. A new one is found by its registered config and held to the same."""

import math

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mhmoe.layers import config as configs
from mhmoe.layers.config import config_from_dict
from mhmoe.layers.per_head import PerHeadRouterConfig
from mhmoe.layers.routers import (
    DotProductRouterConfig,
    FixedTemperatureRouterConfig,
    ReleasedRouterConfig,
    Router,
    RouterConfig,
    XMoERouterConfig,
)
from tests import reference

KINDS: dict[str, type[RouterConfig]] = {
    kind: cls
    for kind, cls in configs._KINDS.items()
    if issubclass(cls, RouterConfig) and cls is not PerHeadRouterConfig  # made of these; see test_multi_head.py
}
every_router = pytest.mark.parametrize("kind", sorted(KINDS))
IN_A_GROUP = {"grouped_router"}  # choose among the experts of a group, not of all; see test_grouped_router.py
OF_ALL = sorted(KINDS.keys() - IN_A_GROUP)


def make(
    kind: str,
    dim: int = 12,
    num_experts: int = 6,
    top_k: int = 2,
    seed: int = 0,
    renormalize: bool = False,
    **rest: object,
) -> Router:
    """In evaluation: what some do by chance in training is in their own tests."""
    config = KINDS[kind](dim=dim, num_experts=num_experts, top_k=top_k, renormalize=renormalize, **rest)  # pyright: ignore
    router = config.build().eval()
    reference.randomise(router, seed)
    assert isinstance(router, Router)
    return router


def gate_is_softmax(kind: str) -> bool:
    return KINDS[kind](dim=12, num_experts=5).gate == "softmax"


def test_the_routers_are_registered() -> None:
    assert KINDS.keys() >= {
        "switch_router",
        "gshard_router",
        "balanced_router",
        "grouped_router",
        "dot_product_router",
        "xmoe_router",
        "unit_embeddings_router",
        "fixed_temperature_router",
    }


@settings(max_examples=40)
@given(
    kind=st.sampled_from(OF_ALL),
    dim=st.integers(1, 9),
    num_experts=st.integers(1, 9),
    top_k=st.integers(1, 9),
    seed=st.integers(0, 10**6),
)
def test_choice_and_probabilities_are_those_of_float64(
    kind: str, dim: int, num_experts: int, top_k: int, seed: int
) -> None:
    top_k = min(top_k, num_experts)
    router = make(kind, dim, num_experts, top_k, seed)
    x = torch.randn(4, dim, generator=torch.Generator().manual_seed(seed))
    routing = router(x)
    assert torch.allclose(routing.probabilities.sum(-1), torch.ones(4), atol=1e-6)
    weights = {name: tensor.double() for name, tensor in router.state_dict().items()}
    for i in range(4):
        exact, _ = reference.probabilities_and_gates(router.config.to_dict(), weights, x[i].double(), 0)
        assert torch.allclose(routing.probabilities[i].double(), exact, atol=2e-6)
        order = exact.argsort(descending=True, stable=True)
        ranked = exact[order]
        for j in range(top_k):  # where two are nearly equal, float32 may take either
            neighbours = ranked[max(j - 1, 0) : j + 2]
            if len(neighbours) < 2 or neighbours.diff().abs().min() > 1e-5:
                assert routing.index[i, j] == order[j]


@pytest.mark.parametrize("kind", OF_ALL)
def test_the_chosen_experts_are_the_most_probable_ones(kind: str) -> None:
    routing = make(kind, num_experts=7, top_k=3)(torch.randn(40, 12))
    order = routing.probabilities.argsort(dim=-1, descending=True, stable=True)
    assert torch.equal(routing.index, order[:, :3])
    gates = routing.probabilities if gate_is_softmax(kind) else routing.scores.sigmoid()  # pyright: ignore
    assert torch.equal(routing.weight, gates.gather(-1, routing.index))
    assert routing.kept.all()


@every_router
def test_the_scores_are_what_the_probabilities_came_from_and_the_wish_is_the_choice(kind: str) -> None:
    routing = make(kind)(torch.randn(40, 12))
    assert routing.wanted is not None and torch.equal(routing.wanted, routing.index)
    assert (routing.scores is not None) == make(kind).config.scores_all
    if routing.scores is not None:
        gates = routing.scores.exp() if gate_is_softmax(kind) else routing.scores.sigmoid()
        assert torch.allclose(routing.probabilities, gates / gates.sum(-1, keepdim=True), atol=1e-6)


@every_router
def test_at_one_expert_a_row_the_weight_is_the_gate_and_trains_the_router(kind: str) -> None:
    router = make(kind, top_k=1)
    routing = router(torch.randn(30, 12))
    if gate_is_softmax(kind):
        assert torch.equal(routing.weight, routing.probabilities.gather(-1, routing.index))
    assert (routing.weight < 0.999).any()
    routing.weight.sum().backward()
    for name, parameter in router.named_parameters():
        assert parameter.grad is not None and parameter.grad.norm() > 1e-6, name


@every_router
def test_renormalised_weights_of_a_row_sum_to_one_in_their_proportions(kind: str) -> None:
    x = torch.randn(20, 12)
    plain, renormalised = make(kind, top_k=3)(x), make(kind, top_k=3, renormalize=True)(x)
    assert torch.allclose(renormalised.weight.sum(-1), torch.ones(20))
    assert torch.allclose(renormalised.weight, plain.weight / plain.weight.sum(-1, keepdim=True))
    assert torch.equal(renormalised.probabilities, plain.probabilities)


@every_router
def test_scores_are_computed_in_float32_whatever_comes_in(kind: str) -> None:
    router, x = make(kind), torch.randn(50, 12)
    expected = router(x)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = router(x)
    assert under_autocast.probabilities.dtype == torch.float32
    assert torch.equal(under_autocast.probabilities, expected.probabilities)

    rounded = make(kind)
    rounded.load_state_dict({n: w.bfloat16().float() for n, w in router.state_dict().items()})
    half = make(kind).bfloat16()
    half.load_state_dict(router.state_dict())
    from_half, exact = half(x.bfloat16()), rounded(x.bfloat16().float())
    assert from_half.probabilities.dtype == torch.float32
    assert torch.equal(from_half.probabilities, exact.probabilities)


@every_router
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_a_mask_that_is_not_boolean_is_refused(kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse it first, in tests
    with pytest.raises(ValueError, match=f"mask is of {dtype}; give one of torch.bool, False where there is padding"):
        make(kind)(torch.randn(4, 5, 12), torch.full((4, 5), 2, dtype=dtype))


@every_router
def test_masked_rows_get_no_weight_and_change_no_other_row(kind: str) -> None:
    router, x = make(kind), torch.randn(4, 5, 12)
    mask = torch.rand(4, 5) < 0.6
    whole, masked = router(x), router(x, mask)
    assert torch.equal(masked.kept, mask.unsqueeze(-1).expand(4, 5, 2))
    assert (masked.weight[~mask] == 0).all()
    assert torch.equal(masked.weight[mask], whole.weight[mask])
    assert torch.equal(masked.index[mask], whole.index[mask])


@every_router
def test_the_seed_decides_where_a_router_starts(kind: str) -> None:
    def start(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return KINDS[kind](dim=12, num_experts=5).build().state_dict()

    one, again, other = start(1), start(1), start(2)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["expert_embeddings"], other["expert_embeddings"])


@every_router
def test_a_router_has_the_parameters_its_config_counts(kind: str) -> None:
    config = KINDS[kind](dim=10, num_experts=6)
    assert sum(p.numel() for p in config.build().parameters()) == config.parameters()


@every_router
def test_a_router_config_comes_back_from_json(kind: str) -> None:
    config = KINDS[kind](dim=10, num_experts=6, top_k=3, renormalize=True)
    assert config_from_dict(config.to_dict()) == config


def test_the_x_moe_router_ignores_the_length_of_a_row_and_the_released_one_does_not() -> None:
    x = torch.randn(30, 12)
    for kind in ("xmoe_router", "fixed_temperature_router"):
        router = make(kind)
        assert torch.allclose(router(x).probabilities, router(5 * x).probabilities, atol=1e-5)
    for kind in ("unit_embeddings_router", "dot_product_router"):
        router = make(kind)
        assert not torch.allclose(router(x).probabilities, router(5 * x).probabilities, atol=0.05)


@every_router
def test_a_row_of_zeros_is_routed_and_has_a_gradient_of_ordinary_size(kind: str) -> None:
    x = torch.zeros(3, 12, requires_grad=True)
    router = make(kind)
    routing = router(x)
    bias = dict(router.named_parameters()).get("bias", torch.zeros(6))
    assert torch.allclose(routing.probabilities, bias.softmax(-1).expand(3, 6))
    routing.weight.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and x.grad.abs().max() < 1e6


@every_router
def test_a_row_whose_sigmoids_are_all_0_in_float32_gets_finite_weights_and_gradients(kind: str) -> None:
    x = (1e4 * torch.randn(200, 12)).requires_grad_()
    routing = make(kind, num_experts=2, renormalize=True, gate="sigmoid")(x)
    (routing.weight.square().sum() + routing.probabilities.square().sum()).backward()
    assert routing.weight.isfinite().all() and routing.probabilities.isfinite().all()
    assert x.grad is not None and x.grad.isfinite().all()


def test_cosine_routers_ignore_the_length_of_an_expert_embedding() -> None:
    x = torch.randn(30, 12)
    for kind in ("xmoe_router", "fixed_temperature_router", "unit_embeddings_router"):
        router = make(kind)
        before = router(x).probabilities
        with torch.no_grad():
            router.expert_embeddings[2] *= 7  # pyright: ignore
        assert torch.allclose(router(x).probabilities, before, atol=1e-5)


def test_the_released_routers_scores_are_of_unit_vectors_whatever_norm_the_embeddings_have() -> None:
    router, x = make("unit_embeddings_router"), torch.randn(30, 12)
    low = x @ router.projection.T  # pyright: ignore
    directions = torch.nn.functional.normalize(router.expert_embeddings, dim=-1)  # pyright: ignore
    assert torch.allclose(router.scores(x), low @ directions.T, atol=1e-6)
    assert (router.scores(x).abs() <= low.norm(dim=-1, keepdim=True) * (1 + 1e-6)).all()


def test_the_released_router_starts_as_the_released_code() -> None:
    router = ReleasedRouterConfig(dim=64, num_experts=16).build()
    assert 0.98 / 8 < router.projection.abs().max() <= 1 / 8  # uniform within 1/sqrt(dim), as nn.Linear
    assert router.projection.std().item() == pytest.approx(1 / 8 / 3**0.5, rel=0.05)
    gram = router.expert_embeddings @ router.expert_embeddings.T
    assert torch.allclose(gram, 1.5**2 * torch.eye(16), atol=1e-5)


def test_the_x_moe_router_starts_with_a_projection_of_variance_one_over_dim() -> None:
    router = XMoERouterConfig(dim=64, num_experts=16).build()
    assert router.projection.std().item() == pytest.approx(1 / 8, rel=0.05)
    assert torch.allclose(router.expert_embeddings.norm(dim=-1), torch.full((16,), 0.32), atol=1e-6)


def test_the_former_released_router_is_refused_with_the_reason() -> None:
    raw = ReleasedRouterConfig(dim=8, num_experts=4).to_dict() | {"kind": "released_router"}
    with pytest.raises(
        ValueError, match=r"kind='released_router' is no more: its scores were 1.5 times .* train again"
    ):
        config_from_dict(raw)


def test_no_parameter_of_a_router_is_without_an_axis() -> None:
    """FSDP shards none that is."""
    for kind in KINDS:
        assert all(parameter.ndim > 0 for parameter in make(kind).parameters()), kind


def test_a_temperature_saved_without_an_axis_loads_into_the_same_router() -> None:
    router, again, x = make("xmoe_router"), make("xmoe_router", seed=1), torch.randn(30, 12)
    state = router.state_dict()
    state["log_inverse_temperature"] = state["log_inverse_temperature"].reshape(())
    torch.nn.Sequential(again).load_state_dict({f"0.{name}": value for name, value in state.items()})
    assert torch.equal(again(x).probabilities, router(x).probabilities)
    assert state["log_inverse_temperature"].ndim == 0, "the caller's dict is the caller's"


def test_the_learned_temperature_starts_where_the_config_says_and_divides_the_cosines() -> None:
    torch.manual_seed(3)
    warm = XMoERouterConfig(dim=12, num_experts=5, temperature=0.6).build()
    torch.manual_seed(3)
    fixed = FixedTemperatureRouterConfig(dim=12, num_experts=5, temperature=0.6).build()
    x = torch.randn(30, 12)
    assert math.isclose(warm.log_inverse_temperature.exp().item(), 1 / 0.6, rel_tol=1e-6)
    assert torch.allclose(warm(x).probabilities, fixed(x).probabilities, atol=1e-6)


def test_the_temperature_cannot_fall_below_a_hundredth() -> None:
    router = make("xmoe_router")
    x = torch.randn(30, 12)
    with torch.no_grad():
        router.log_inverse_temperature.fill_(20.0)  # pyright: ignore
    assert router.scores(x).abs().max() <= 100.001


@pytest.mark.parametrize(
    ("cls", "sizes", "message"),
    [
        (DotProductRouterConfig, {"dim": 0, "num_experts": 4}, "dim=0 is not allowed; it must be at least 1"),
        (DotProductRouterConfig, {"dim": 4, "num_experts": 0}, "num_experts=0 .* at least 1"),
        (ReleasedRouterConfig, {"dim": 4, "num_experts": 4, "top_k": 0}, "top_k=0 .* at least 1"),
        (
            XMoERouterConfig,
            {"dim": 4, "num_experts": 4, "top_k": 5},
            "top_k=5 exceeds num_experts=4; choose at most 4",
        ),
        (XMoERouterConfig, {"dim": 4, "num_experts": 4, "router_dim": 0}, "router_dim=0 .* at least 1"),
        (XMoERouterConfig, {"dim": 4, "num_experts": 4, "temperature": 0.0}, "temperature=0.0 .* at least 0.01"),
        (
            FixedTemperatureRouterConfig,
            {"dim": 4, "num_experts": 4, "temperature": float("nan")},
            "temperature=nan .* a finite number, at least 0.01",
        ),
    ],
)
def test_sizes_that_make_no_router_are_refused_by_name(
    cls: type[RouterConfig], sizes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**sizes)  # pyright: ignore
