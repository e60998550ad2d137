"""The mixture of experts: against a float64 loop, with padding, capacity, a shared network and a residual."""

import math
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mhmoe.layers import config as configs
from mhmoe.layers.absent import AbsentConfig
from mhmoe.layers.beside import BesideConfig
from mhmoe.layers.config import config_from_dict
from mhmoe.layers.dense_mixture import DenseMixtureConfig
from mhmoe.layers.expert_choice import ExpertChoiceConfig
from mhmoe.layers.experts import ExpertsConfig, FeedForwardConfig
from mhmoe.layers.hierarchical import HierarchicalMoEConfig
from mhmoe.layers.latent import LatentConfig
from mhmoe.layers.losses import balance_loss
from mhmoe.layers.multi_head import multi_head_moe
from mhmoe.layers.normed import NormedConfig
from mhmoe.layers.routers import (
    DotProductRouterConfig,
    FixedTemperatureRouterConfig,
    ReleasedRouterConfig,
    RouterConfig,
    Routing,
    XMoERouterConfig,
)
from mhmoe.layers.sparse_moe import Capacity, ResidualConfig, SparseMoE, SparseMoEConfig
from tests import reference

SHARED = FeedForwardConfig(dim=8, inner_dim=12)


def config(
    router: type[RouterConfig] = XMoERouterConfig, top_k: int = 2, num_experts: int = 4, **rest: Any
) -> SparseMoEConfig:
    style = {name: rest.pop(name) for name in ("activation", "bias", "inner_norm") if name in rest}
    return SparseMoEConfig(
        router=router(dim=8, num_experts=num_experts, top_k=top_k),
        experts=ExpertsConfig(dim=8, num_experts=num_experts, expert_dim=16, **style),
        **rest,
    )


def make(seed: int = 0, **sizes: Any) -> SparseMoE:
    layer = config(**sizes).build()
    reference.randomise(layer, seed)
    return layer


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("shared", [None, SHARED], ids=["", "shared"])
@pytest.mark.parametrize("capacity_factor", [None, 0.5, 1.0], ids=str)
def test_output_is_that_of_a_loop_over_rows_and_experts(
    capacity_factor: float | None, shared: FeedForwardConfig | None, training: bool
) -> None:
    sizes = config(capacity_factor=capacity_factor, shared=shared, bias=True)
    layer = sizes.build().train(training)
    reference.randomise(layer, 3)
    x, mask = torch.randn(13, 8), torch.rand(13) < 0.8
    output = layer(x, mask)
    exact, trace = reference.run(
        sizes.to_dict(), layer.state_dict(), x, mask.tolist(), output.routing.index.tolist(), training
    )
    assert reference.error(output.hidden, exact) < 2e-6
    assert output.routing.kept.tolist() == trace.kept
    assert trace.balance_loss is not None
    assert output.balance_loss.item() == pytest.approx(trace.balance_loss.item(), rel=1e-6)
    if capacity_factor == 0.5 and training:
        assert not output.routing.kept[mask].all(), "nothing was dropped, so nothing was tested"


def test_one_expert_is_the_dense_network_because_its_gate_is_one() -> None:
    layer, x = make(num_experts=1, top_k=1, bias=True, inner_norm=True), torch.randn(9, 8)
    dense = FeedForwardConfig(dim=8, inner_dim=16, bias=True, inner_norm=True).build()
    stacked = {name.replace("_bias", "_proj.bias"): w[0] for name, w in layer.experts.state_dict().items()}
    dense.load_state_dict({k + ".weight" if k.endswith("_proj") else k: w for k, w in stacked.items()})
    output = layer(x)
    assert (output.routing.weight == 1).all()
    assert reference.error(output.hidden, dense(x).hidden) < 1e-6
    assert output.balance_loss.item() == 1


def test_the_task_alone_trains_the_router_at_one_expert_a_row() -> None:
    for router in (
        XMoERouterConfig,
        DotProductRouterConfig,
        ReleasedRouterConfig,
        FixedTemperatureRouterConfig,
    ):
        layer = make(router=router, top_k=1)
        layer(torch.randn(30, 8)).hidden.square().sum().backward()
        for name, parameter in layer.router.named_parameters():
            assert parameter.grad is not None and parameter.grad.norm() > 1e-5, (router, name)


def test_the_balance_loss_trains_the_router_alone() -> None:
    layer, x = make(), torch.randn(30, 8)
    layer(x).balance_loss.backward()
    trained = {name for name, p in layer.named_parameters() if p.grad is not None and p.grad.norm() > 0}
    assert trained and all(name.startswith("router.") for name in trained)


def padded() -> tuple[Tensor, Tensor]:
    return torch.randn(3, 5, 8), torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [False] * 2 + [True] * 3])


def test_padded_rows_get_zero_and_leave_no_trace() -> None:
    layer = make(bias=True)
    x, mask = padded()
    other = torch.where(mask.unsqueeze(-1), x, 100 * torch.randn_like(x))

    def gradients(rows: Tensor) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        rows = rows.clone().requires_grad_()
        output = layer(rows, mask)
        layer.zero_grad()
        (output.hidden.square().sum() + output.balance_loss).backward()
        assert rows.grad is not None
        taken = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
        return output.hidden.detach(), output.balance_loss.detach(), rows.grad, taken

    hidden, loss, x_grad, taken = gradients(x)
    hidden_other, loss_other, x_grad_other, taken_other = gradients(other)
    assert (hidden[~mask] == 0).all() and (x_grad[~mask] == 0).all() and (x_grad_other[~mask] == 0).all()
    assert torch.allclose(hidden[mask], hidden_other[mask], atol=1e-6) and loss == loss_other
    for name, gradient in taken.items():
        assert torch.allclose(gradient, taken_other[name], atol=1e-5), name

    alone = layer(x[mask])
    assert torch.allclose(alone.hidden, hidden[mask], atol=1e-6)
    assert torch.allclose(alone.balance_loss, loss)


def test_padded_rows_still_see_the_shared_network() -> None:
    layer = make(shared=SHARED)
    x, mask = padded()
    assert layer.shared is not None
    assert torch.equal(layer(x, mask).hidden[~mask], layer.shared(x).hidden[~mask])


def test_a_batch_of_padding_alone_is_zero_with_zero_loss() -> None:
    output = make(bias=True)(torch.randn(4, 8), torch.zeros(4, dtype=torch.bool))
    assert (output.hidden == 0).all() and output.balance_loss == 0


def test_any_leading_shape_gives_what_flat_rows_give() -> None:
    layer, x = make(bias=True), torch.randn(12, 8)
    flat = layer(x)
    for shape in ((3, 4), (2, 3, 2), (12, 1)):
        shaped = layer(x.view(*shape, 8))
        assert torch.allclose(shaped.hidden, flat.hidden.view(*shape, 8), atol=1e-6)
        assert shaped.routing.index.shape == (*shape, 2)
        assert torch.allclose(shaped.balance_loss, flat.balance_loss)
    assert torch.allclose(layer(x[0]).hidden, flat.hidden[0], atol=1e-6)
    strided = torch.randn(8, 12).T
    assert torch.allclose(layer(strided).hidden, layer(strided.contiguous()).hidden, atol=1e-6)


def test_no_rows_at_all_give_no_rows_and_zero_gradients() -> None:
    layer = make(bias=True)
    output = layer(torch.randn(2, 0, 8))
    (output.hidden.sum() + output.balance_loss).backward()
    assert output.hidden.shape == (2, 0, 8) and output.balance_loss == 0
    assert all((p.grad == 0).all() for p in layer.parameters() if p.grad is not None)


def test_permuting_the_rows_permutes_the_outputs() -> None:
    layer, x = make(), torch.randn(20, 8)
    order = torch.randperm(20)
    assert torch.allclose(layer(x[order]).hidden, layer(x).hidden[order], atol=1e-6)
    assert torch.allclose(layer(x[order]).balance_loss, layer(x).balance_loss)


def test_renaming_the_experts_renames_the_routing_and_nothing_else() -> None:
    layer, renamed, x = make(bias=True), make(bias=True), torch.randn(20, 8)
    new_name = torch.tensor([2, 0, 3, 1])
    stacked = ("experts.", "router.expert_embeddings")
    renamed.load_state_dict(
        {k: w[new_name.argsort()] if k.startswith(stacked) else w for k, w in layer.state_dict().items()}
    )
    before, after = layer(x), renamed(x)
    assert torch.allclose(after.hidden, before.hidden, atol=1e-6)
    assert torch.equal(after.routing.index, new_name[before.routing.index])
    assert torch.allclose(after.balance_loss, before.balance_loss)


def routing(index: list[list[int]], num_experts: int, kept: list[bool] | None = None) -> Routing:
    chosen = torch.tensor(index)
    flags = torch.ones_like(chosen, dtype=torch.bool)
    if kept is not None:
        flags &= torch.tensor(kept).unsqueeze(-1)
    probabilities = torch.full((len(index), num_experts), 1 / num_experts)
    return Routing(chosen, 0.5 * flags, probabilities, flags)


@pytest.mark.parametrize(
    ("factor", "index", "expected"),
    [
        # ceil(4 / 2) = 2 an expert: the third and fourth row that want expert 0 are too many
        (1.0, [[0], [0], [0], [0]], [[True], [True], [False], [False]]),
        # twice the room
        (2.0, [[0], [0], [0], [0]], [[True], [True], [True], [True]]),
        # 2 * ceil(3 / 3) = 2: all first choices come before any second choice
        (1.0, [[1, 0], [2, 0], [0, 1]], [[True, True], [True, False], [True, True]]),
        # floor(0.5 * 2) = 1
        (0.5, [[1], [1], [0], [0]], [[True], [False], [True], [False]]),
    ],
)
def test_capacity_by_hand(factor: float, index: list[list[int]], expected: list[list[bool]]) -> None:
    given = routing(index, 3 if len(index[0]) == 2 else 2)
    limited = Capacity(factor)(given)
    assert limited.kept.tolist() == expected
    assert torch.equal(limited.weight, 0.5 * torch.tensor(expected))
    assert torch.equal(limited.index, given.index)


def test_a_capacity_is_what_its_decimal_digits_say() -> None:
    """0.29 * 100 is 28.999999999999996 in floating point."""
    given = routing([[0]] * 200, 2)
    assert Capacity(0.29)(given).kept.sum() == 29


def test_padded_rows_take_no_room() -> None:
    given = routing([[0], [0], [0], [0]], 2, kept=[False, True, False, True])
    assert Capacity(1.0)(given).kept.squeeze(-1).tolist() == [False, True, False, True]


def test_evaluation_drops_nothing() -> None:
    capacity = Capacity(0.1).eval()
    given = routing([[0], [0], [0], [0]], 2)
    assert capacity(given).kept.all()
    assert not capacity.train()(given).kept.all()


def test_dropped_rows_get_zero_and_still_count_in_the_balance_loss() -> None:
    layer = make(top_k=1, capacity_factor=0.5).train()
    output = layer(torch.randn(40, 8))
    dropped = ~output.routing.kept.squeeze(-1)
    assert 0 < dropped.sum() < 40
    assert (output.hidden[dropped] == 0).all()
    expected = balance_loss(output.routing.probabilities, output.routing.index)
    assert torch.allclose(output.balance_loss, expected)


def test_the_residual_adds_its_input() -> None:
    layer = ResidualConfig(inner=config()).build()
    reference.randomise(layer, 2)
    x = torch.randn(6, 8)
    output, inner = layer(x), layer.inner(x)
    assert torch.equal(output.hidden, x + inner.hidden)
    assert torch.equal(output.routing.index, inner.routing.index)
    assert torch.equal(output.balance_loss, inner.balance_loss)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    plain, again, x = make(bias=True), make(bias=True), torch.randn(9, 8)
    for layer, run in ((plain, plain), (again, lambda x: checkpoint(again, x, use_reentrant=False))):
        output = run(x)
        (output.hidden.square().sum() + output.balance_loss).backward()
        assert all(p.grad is not None for p in layer.parameters())
    for ours, theirs in zip(plain.parameters(), again.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None and torch.equal(ours.grad, theirs.grad)


def test_a_state_dict_moves_every_number() -> None:
    layer, copy, x = (
        make(0, bias=True, inner_norm=True),
        make(1, bias=True, inner_norm=True),
        torch.randn(9, 8),
    )
    assert not torch.equal(layer(x).hidden, copy(x).hidden)
    copy.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x).hidden, copy(x).hidden)


def test_bfloat16_and_autocast_stay_near_float32_and_route_in_float32() -> None:
    layer, x = make(), torch.randn(50, 8)
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = layer(x)
    assert torch.equal(autocast.routing.index, exact.routing.index)
    assert autocast.balance_loss.dtype == torch.float32
    assert 1e-4 < reference.error(autocast.hidden, exact.hidden) < 0.02
    half = make().bfloat16()(x.bfloat16())
    assert half.hidden.dtype == torch.bfloat16 and half.routing.probabilities.dtype == torch.float32
    agree = (half.routing.index == exact.routing.index).all(-1)
    assert agree.float().mean() > 0.8
    assert reference.error(half.hidden[agree], exact.hidden[agree]) < 0.03


LAYERS = {
    "plain": config(),
    "all": config(activation="swiglu", bias=True, inner_norm=True, capacity_factor=1.25, shared=SHARED),
    "next": config(capacity_factor=1.0, overflow="next", balance=(("importance", 1.0), ("z", 0.1))),
    "expert choice": ExpertChoiceConfig(router=config().router, experts=config().experts, shared=SHARED),
    "normed": NormedConfig(inner=config()),
    "beside": BesideConfig(shared=SHARED, routed=config()),
    "absent": AbsentConfig(dim=8),
    "all experts": DenseMixtureConfig(router=config(top_k=4).router, experts=config().experts),
    "mixtures": HierarchicalMoEConfig(router=config().router, inner=config()),
    "latent": LatentConfig(dim=12, inner=config(), route_by="latent"),
    "residual": ResidualConfig(inner=config(router=ReleasedRouterConfig)),
    "heads": multi_head_moe(dim=16, num_experts=3, expert_dim=5, moe_heads=2, inner_residual=True),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_config_comes_back_from_json_and_counts_what_it_builds(name: str) -> None:
    layer = LAYERS[name]
    assert config_from_dict(layer.to_dict()) == layer
    assert sum(p.numel() for p in layer.build().parameters()) == layer.parameters()


def test_every_registered_kind_comes_back_from_json() -> None:
    seen: set[str] = set()

    def collect(layer: configs.Config) -> None:
        seen.add(layer.kind)
        for value in vars(layer).values():
            if isinstance(value, configs.Config):
                collect(value)

    for layer in LAYERS.values():
        collect(layer)
    ours = {kind for kind, cls in configs._KINDS.items() if not issubclass(cls, RouterConfig)}
    assert ours <= seen, "add the new kind to LAYERS; routers have their own test"


def test_active_parameters_are_those_of_the_chosen_experts() -> None:
    layer = config(top_k=2, bias=True, shared=SHARED)
    one_expert = 8 * 16 * 2 + 16 + 8
    always = layer.router.parameters() + SHARED.parameters()
    assert layer.active_parameters() == always + 2 * one_expert
    assert layer.active_parameters(rows=2) == always + 4 * one_expert == layer.parameters()
    assert layer.active_parameters(rows=100) == layer.parameters()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"experts": ExpertsConfig(dim=6, num_experts=4, expert_dim=5)},
            "router.dim=8 and experts.dim=6 differ",
        ),
        (
            {"experts": ExpertsConfig(dim=8, num_experts=3, expert_dim=5)},
            "router.num_experts=4 and .*=3 differ",
        ),
        ({"shared": FeedForwardConfig(dim=4, inner_dim=4)}, "shared.dim=4 is not the experts' dim=8"),
        ({"capacity_factor": 0.0}, "capacity_factor=0.0 is not allowed; it must be at least 0.01 and .*, or None"),
        ({"capacity_factor": -math.inf}, "capacity_factor=-inf is not allowed"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config().replace(**change)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("kind", "sparse_mo", "kind='sparse_mo' is not known; choose one of .*sparse_moe"),
        ("kind", None, "kind=None is not known"),
        ("colour", 1, "sparse_moe has no field 'colour'; it has router, experts, capacity_factor, shared, scored_dim"),
        ("router.tempreature", 1.0, "xmoe_router has no field 'tempreature'; it has dim, .*temperature"),
        ("router.dim", "8", "xmoe_router.dim='8' is not allowed; it must be a whole number, at least 1"),
        ("router.top_k", 5, "top_k=5 exceeds num_experts=4"),
        ("experts", None, "sparse_moe.experts=None is not allowed; it must be ExpertsConfig"),
        ("router", SHARED.to_dict(), "sparse_moe.router=<feed_forward> is not allowed; it must be RouterConfig"),
        (
            "capacity_factor",
            "1",
            "sparse_moe.capacity_factor='1' is not allowed; it must be a finite number, .*or None",
        ),
    ],
)
def test_bad_json_is_refused_by_name(path: str, value: object, message: str) -> None:
    raw = config().to_dict()
    *parents, last = path.split(".")
    target = raw
    for parent in parents:
        target = target[parent]
    target[last] = value
    with pytest.raises(ValueError, match=message):
        config_from_dict(raw)


@pytest.mark.parametrize("missing", ["router", "experts"])
def test_a_missing_field_is_named(missing: str) -> None:
    raw = config().to_dict()
    del raw[missing]
    with pytest.raises(ValueError, match=f"sparse_moe needs the field '{missing}'"):
        config_from_dict(raw)


def test_a_whole_number_is_as_good_as_a_decimal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # beartype takes no int for a float
    raw = config(capacity_factor=1.0).to_dict()
    raw["capacity_factor"] = 1
    assert config_from_dict(raw) == config(capacity_factor=1.0)


def test_two_layers_cannot_share_a_kind() -> None:
    with pytest.raises(TypeError, match="kind='sparse_moe' is taken by SparseMoEConfig"):

        class Other(configs.Config, kind="sparse_moe"):  # pyright: ignore[reportUnusedClass]
            pass
