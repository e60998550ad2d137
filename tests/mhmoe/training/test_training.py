"""The loop is the equations of its docstring: losses, gradient, schedule, optimiser, order, start, end."""

import dataclasses
import itertools
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from torch import nn

from mhmoe.data.batches import TrainingBatches
from mhmoe.data.packing import PackedDataset
from mhmoe.io import UserError
from mhmoe.layers.multi_head import multi_head_moe
from mhmoe.layers.routers import DotProductRouterConfig
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.allocator import peak_memory, reset_peak_memory
from mhmoe.training.checkpoint import TrainState
from mhmoe.training.config import TrainingConfig
from mhmoe.training.evaluation import evaluate
from mhmoe.training.loop import make_optimizer, seed_parameters, train
from mhmoe.training.objective import Objective, accumulate_gradients
from tests import tiny
from tests.commands import program

SYSTEMS = [*tiny.MOE, "full"]


def with_(**changes: Any) -> TrainingConfig:
    return dataclasses.replace(tiny.TRAINING, **changes)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    return tiny.text(tmp_path_factory.mktemp("cache"))


def batch(text: PackedDataset, step: int = 0, config: TrainingConfig = tiny.TRAINING) -> torch.Tensor:
    batches = TrainingBatches(text.train, config.length, config.batch_sequences, seed=0)
    return torch.from_numpy(batches.batch(step))


# ---- the losses and their gradients ---------------------------------------------------------


def gradients_of(
    text: PackedDataset, system: str, config: TrainingConfig, weight: float
) -> tuple[dict[str, torch.Tensor], tuple[float, float]]:
    model = tiny.model(system)
    losses = accumulate_gradients(Objective(model, config.precision), batch(text), config, weight)[:2]
    return tiny.gradients(model), losses


@pytest.mark.parametrize("system", SYSTEMS)
def test_four_micro_batches_give_the_task_gradient_of_one_batch(text: PackedDataset, system: str) -> None:
    one, (nll, _) = gradients_of(text, system, tiny.TRAINING, 0.0)
    four, (nll_of_four, _) = gradients_of(text, system, with_(micro_batches=4), 0.0)
    assert len(one) == len(list(tiny.model(system).parameters()))
    assert tiny.worst_tensor(four, one) < 1e-5
    assert nll_of_four == pytest.approx(nll, rel=1e-6)


def test_the_task_gradient_is_that_of_the_mean_nll_over_the_batch(text: PackedDataset) -> None:
    model, tokens = tiny.model("xmoe"), batch(text)
    logits = model(tokens[:, :-1]).logits
    nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    ours, _ = gradients_of(text, "xmoe", tiny.TRAINING, 0.0)
    assert tiny.worst_tensor(ours, tiny.gradients(model)) < 1e-5


MIXED = {"moe_every": 1, "num_hidden_layers": 2}  # both blocks route


def in_float64(
    system: str, tokens: torch.Tensor, micro_batches: int, weight: float, **options: Any
) -> tuple[dict[str, torch.Tensor], tuple[float, float]]:
    model = tiny.model(system, **options).double()
    config = with_(micro_batches=micro_batches)
    losses = accumulate_gradients(Objective(model, "float32"), tokens, config, weight)[:2]
    return tiny.gradients(model), losses


@pytest.mark.parametrize("micro_batches", [2, 4, 8])
@pytest.mark.parametrize("system", ["xmoe", "mhmoe_compute", "mhmoe_parameters"])
def test_micro_batches_give_the_balance_gradient_of_one_batch(
    text: PackedDataset, system: str, micro_batches: int
) -> None:
    """In float64, so that what is left is not the order of sums; t itself is in float32."""
    tokens = batch(text)
    one, (nll, balance) = in_float64(system, tokens, 1, 0.5, **MIXED)
    task, _ = in_float64(system, tokens, 1, 0.0, **MIXED)
    ours, losses = in_float64(system, tokens, micro_batches, 0.5, **MIXED)
    assert losses == pytest.approx((nll, balance), rel=1e-6)
    wanted = {name: one[name] - task[name] for name in one}
    assert tiny.difference({name: ours[name] - task[name] for name in one}, wanted) < 1e-5
    assert tiny.worst_tensor(ours, one) < 1e-5


def test_one_batch_has_the_models_own_balance_loss_and_its_gradient(text: PackedDataset) -> None:
    both, (_, balance) = gradients_of(text, "mhmoe_compute", tiny.TRAINING, 0.5)
    task, _ = gradients_of(text, "mhmoe_compute", tiny.TRAINING, 0.0)
    model = tiny.model("mhmoe_compute")
    loss = model(batch(text)[:, :-1]).balance_loss
    loss.backward()
    assert balance == pytest.approx(loss.item(), rel=1e-6)
    expected = {name: gradient * 0.5 for name, gradient in tiny.gradients(model).items()}
    assert tiny.difference({name: both[name] - task[name] for name in expected}, expected) < 1e-5


def test_micro_batches_of_unequal_size_count_by_their_sequences(text: PackedDataset) -> None:
    """Five sequences, as the share of one of several processes may be, fall into 2, 2 and 1."""
    tokens = batch(text)[:5]
    one, losses = in_float64("xmoe", tokens, 1, 0.5)
    ours, of_parts = in_float64("xmoe", tokens, 4, 0.5)
    assert of_parts == pytest.approx(losses, rel=1e-6)
    assert tiny.worst_tensor(ours, one) < 1e-5


def test_gradients_that_were_there_before_are_no_part_of_the_first_step(text: PackedDataset) -> None:
    ended: list[dict[str, torch.Tensor]] = []
    for stale in (False, True):
        model = tiny.model("xmoe")
        if stale:
            (50 * model(batch(text), labels=batch(text)).loss).backward()
        train(model, text, with_(steps=1, evaluations=1), seed=1)
        ended.append({name: p.detach().clone() for name, p in model.named_parameters()})
    assert all(torch.equal(ended[0][name], ended[1][name]) for name in ended[0])


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_training_is_that_of_one_batch_after_many_steps_too(text: PackedDataset, micro_batches: int) -> None:
    """Routing is cut sharply, so float32 noise could grow; in float64 nothing does."""
    config, losses = with_(steps=10, evaluations=1), dict[int, float]()
    for parts in (1, micro_batches):
        model = tiny.model("mhmoe_compute").double()
        progress = train(model, text, dataclasses.replace(config, micro_batches=parts), seed=0)
        assert progress is not None
        losses[parts] = progress.curve[-1]["valid_nll"]
    assert losses[micro_batches] == pytest.approx(losses[1], rel=1e-6)


def test_four_copies_of_a_micro_batch_are_one_batch_of_it(text: PackedDataset) -> None:
    """Here even the balance loss is linear: the whole gradient of four equal parts is that of one."""
    copies, part = tiny.model("mhmoe_parameters"), tiny.model("mhmoe_parameters")
    tokens = batch(text)[:2]
    one = with_(batch_sequences=2)
    four = with_(micro_batches=4)
    losses = accumulate_gradients(Objective(part, "float32"), tokens, one, 0.5)[:2]
    of_four = accumulate_gradients(Objective(copies, "float32"), tokens.repeat(4, 1), four, 0.5)
    assert of_four[:2] == pytest.approx(losses)
    assert tiny.worst_tensor(tiny.gradients(copies), tiny.gradients(part)) < 1e-5


def test_gradients_add_to_what_is_there(text: PackedDataset) -> None:
    once, _ = gradients_of(text, "xmoe", tiny.TRAINING, 0.01)
    model = tiny.model("xmoe")
    for _ in range(2):
        accumulate_gradients(Objective(model, "float32"), batch(text), tiny.TRAINING, 0.01)
    assert tiny.worst_tensor(tiny.gradients(model), {name: 2 * g for name, g in once.items()}) < 1e-6


def test_the_weight_of_the_balance_loss_is_the_model_configs(text: PackedDataset) -> None:
    trained = {}
    for weight in (0.0, 0.01, 10.0):
        model = tiny.model("xmoe", balance_weight=weight)
        progress = train(model, text, with_(evaluations=1, length=16), seed=0)
        assert progress is not None
        trained[weight] = progress.curve[-1]["balance_loss"]
    assert trained[10.0] < 1.02 < trained[0.01] < trained[0.0]


# ---- schedule -------------------------------------------------------------------------------


def test_the_rate_rises_linearly_and_falls_linearly_to_just_above_0() -> None:
    config = with_(steps=1000, learning_rate=0.5, warmup=0.04)
    expected = {
        0: 0.5 / 40,
        1: 0.5 * 2 / 40,
        19: 0.25,
        39: 0.5,
        40: 0.5,
        41: 0.5 * 959 / 960,
        520: 0.25,
        999: 0.5 / 960,
    }
    assert {step: config.rate(step) for step in expected} == pytest.approx(expected, rel=1e-12)
    rates = [config.rate(step) for step in range(1000)]
    assert max(rates) == 0.5 and min(rates) > 0
    assert all(a < b for a, b in itertools.pairwise(rates[:40]))
    assert all(a > b for a, b in itertools.pairwise(rates[40:]))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 24, 25, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.04, 0.5, 1.0])
def test_every_step_has_a_rate_and_one_has_the_full_one(steps: int, warmup: float) -> None:
    config = with_(steps=steps, warmup=warmup, learning_rate=2.0)
    rates = [config.rate(step) for step in range(steps)]
    assert min(rates) > 0 and max(rates) == 2.0
    if warmup == 0:
        assert rates == pytest.approx([2.0] + [2.0 * (steps - s) / (steps - 1) for s in range(1, steps)])
    if warmup == 1:
        assert rates == pytest.approx([2.0 * (s + 1) / steps for s in range(steps)])


@pytest.mark.parametrize(("steps", "evaluations"), [(1, 1), (10, 10), (10, 3), (97, 10), (1464, 12), (5, 1)])
def test_the_curve_has_as_many_points_as_asked_evenly_spread_to_the_last_step(steps: int, evaluations: int) -> None:
    config = with_(steps=steps, evaluations=evaluations)
    points = [done for done in range(1, steps + 1) if config.evaluates_after(done)]
    assert len(points) == evaluations and points[-1] == steps
    gaps = [b - a for a, b in zip([0, *points], points, strict=False)]
    assert max(gaps) - min(gaps) <= 1


def test_more_evaluations_than_steps_are_one_a_step() -> None:
    assert all(with_(steps=4, evaluations=10).evaluates_after(done) for done in range(1, 5))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("batch_sequences", -8),
        ("length", 0),
        ("micro_batches", 0),
        ("micro_batches", 3),
        ("evaluations", 0),
        ("evaluation_windows", 0),
        ("learning_rate", 0.0),
        ("learning_rate", -1.0),
        ("learning_rate", math.nan),
        ("warmup", 1.5),
        ("warmup", -0.1),
        ("warmup", math.nan),
        ("clip_norm", 0.0),
        ("clip_norm", -1.0),
        ("eps", 0.0),
        ("weight_decay", -0.01),
        ("betas", (0.9, 1.0)),
        ("precision", "float16"),
        ("mup_scaled", ("head",)),
        ("steps", 2.5),
        ("steps", math.nan),
        ("steps", True),
        ("steps", "60"),
        ("length", None),
        ("micro_batches", 1.0),
        ("learning_rate", math.inf),
        ("learning_rate", True),
        ("learning_rate", "0.1"),
        ("betas", [0.9, 0.98, 0.99]),
        ("betas", (0.9, "x")),
        ("betas", 0.9),
        ("eps", math.inf),
        ("weight_decay", math.nan),
        ("clip_norm", math.inf),
        ("compile", 1),
        ("precision", 32),
        ("mup_scaled", "up_proj"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users run without the type checks
    message = r"micro_batches=3 does not divide batch_sequences=8" if value == 3 else rf"^{field}="
    with pytest.raises(ValueError, match=message) as caught:
        with_(**{field: value})
    assert str(value) in str(caught.value) and "\n" not in str(caught.value)


# ---- optimiser ------------------------------------------------------------------------------


def test_rates_scaled_by_mup_follow_the_input_width_and_leave_all_else_alone() -> None:
    model = tiny.model("mhmoe_parameters")
    groups = make_optimizer(model, with_(mup_scaled=("up_proj", "down_proj"))).param_groups
    factors = {id(p): group["lr_multiplier"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        widths = {"up_proj": tiny.DIM, "down_proj": 4 * tiny.DIM}
        part = next((part for part in widths if part in name), None)
        assert factors[id(parameter)] == (widths[part] / parameter.shape[-1] if part else 1.0)
    assert set(factors.values()) > {1.0, 2.0}  # sub-tokens are half as wide, experts wider than their share


def test_the_first_step_of_a_scaled_matrix_is_as_much_longer_as_its_rate(text: PackedDataset) -> None:
    def moved(scaled: tuple[str, ...]) -> dict[str, torch.Tensor]:
        model = tiny.model("mhmoe_parameters")
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        train(model, text, with_(steps=1, weight_decay=0.0, mup_scaled=scaled), seed=0)
        return {name: p.detach() - before[name] for name, p in model.named_parameters()}

    plain, scaled = moved(()), moved(("down_proj",))
    name = "model.layers.1.feed_forward.inner.experts.down_proj"
    factor = 4 * tiny.DIM / plain[name].shape[-1]
    assert factor != 1.0
    assert torch.allclose(scaled[name], factor * plain[name], rtol=1e-3, atol=1e-7)
    assert torch.equal(scaled["model.embed_tokens.weight"], plain["model.embed_tokens.weight"])


def test_an_unscaled_training_config_is_written_as_before_the_field_came() -> None:
    assert {"scaled_rates", "mup_scaled", "base_width"}.isdisjoint(with_().to_dict())
    config = with_(mup_scaled=("up_proj",), base_width=8)
    assert config.to_dict()["scaled_rates"] == ("up_proj",)  # as in records
    assert TrainingConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("router", ["xmoe", "dot product"])
def test_a_base_width_scales_the_rate_of_the_matrices_whose_input_grows(router: str) -> None:
    own = DotProductRouterConfig(dim=tiny.DIM // 2, num_experts=4)
    moe = multi_head_moe(dim=tiny.DIM, num_experts=4, moe_heads=2, expert_dim=8, router=own).to_dict()
    model = tiny.model("mhmoe_parameters", moe=moe if router == "dot product" else tiny.config("mhmoe_parameters").moe)
    groups = make_optimizer(model, with_(base_width=4)).param_groups
    factors = {id(p): group["lr_multiplier"] for group in groups for p in group["params"]}
    narrower = 4 / model.config.hidden_size
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim >= 2 and "norm" not in name and not name.endswith("bias")
        scaled = matrix and "embed_tokens" not in name and not (router == "xmoe" and "expert_embeddings" in name)
        assert factors[id(parameter)] == (narrower if scaled else 1.0), name
    assert {narrower, 1.0} == set(factors.values())


def test_a_model_whose_routing_would_have_no_gradient_is_refused() -> None:
    model: Any = tiny.model("xmoe")
    tiny.checkpoint_blocks(model, reentrant=True)
    with pytest.raises(ValueError, match="the balance loss would have no gradient"):
        Objective(model, "float32")
    tiny.checkpoint_blocks(model, reentrant=False)
    Objective(model, "float32")


def test_matrices_decay_and_biases_norms_and_scalars_do_not() -> None:
    model = tiny.model("full")
    optimizer = make_optimizer(model, with_(weight_decay=0.3))
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    names: dict[float, set[str]] = {0.3: set(), 0.0: set()}
    for name, parameter in model.named_parameters():
        names[decays.pop(id(parameter))].add(name.removeprefix("model."))
    assert not decays
    block, moe = "layers.0.", "layers.1.feed_forward."
    assert {
        "embed_tokens.weight",
        "lm_head.weight",
        block + "attention.qkv_proj.weight",
        block + "feed_forward.up_proj.weight",
        moe + "head.weight",
        moe + "merge.weight",
        moe + "inner.router.projection",
        moe + "inner.router.expert_embeddings",
        moe + "inner.experts.up_proj",
        moe + "inner.experts.down_proj",
    } <= names[0.3]
    assert names[0.0] == {
        "norm.weight",
        "norm.bias",
        *(f"layers.{b}.{n}_norm.{p}" for b in "01" for n in ("attention", "feed_forward") for p in ("weight", "bias")),
        *(f"layers.{b}.attention.{n}_proj.bias" for b in "01" for n in ("qkv", "o")),
        moe + "head.bias",
        moe + "merge.bias",
        moe + "inner.router.log_inverse_temperature",
        moe + "inner.experts.up_bias",
        moe + "inner.experts.down_bias",
        moe + "inner.experts.inner_norm.weight",
        moe + "inner.experts.inner_norm.bias",
    }


def by_hand(model: MHMoEForCausalLM, text: PackedDataset, config: TrainingConfig) -> list[float]:
    """Training as the papers write it, one formula a line. Returns the gradients' norms before clipping."""
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in model.named_parameters()}
    warmup, (beta1, beta2), norms = round(config.warmup * config.steps), config.betas, list[float]()
    for step in range(config.steps):
        tokens = batch(text, step, config)
        model.zero_grad()
        output = model(tokens[:, :-1])
        task = nn.functional.cross_entropy(output.logits.flatten(0, 1), tokens[:, 1:].flatten())
        (task + model.config.balance_weight * output.balance_loss).backward()
        norms.append(math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None)))
        if step < warmup:
            rate = config.learning_rate * (step + 1) / warmup
        else:
            rate = config.learning_rate * (config.steps - step) / (config.steps - warmup)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                assert parameter.grad is not None
                gradient = parameter.grad * min(1.0, config.clip_norm / norms[-1])
                first, second = moments[name]
                first.mul_(beta1).add_((1 - beta1) * gradient)
                second.mul_(beta2).add_((1 - beta2) * gradient**2)
                if parameter.ndim >= 2:
                    parameter.mul_(1 - rate * config.weight_decay)
                corrected = first / (1 - beta1 ** (step + 1))
                deviation = (second / (1 - beta2 ** (step + 1))).sqrt()
                parameter.sub_(rate * corrected / (deviation + config.eps))
    return norms


@pytest.mark.parametrize("clip_norm", [0.3, 1e9])
def test_training_is_the_formulas_written_out_by_hand(text: PackedDataset, clip_norm: float) -> None:
    config = with_(steps=8, warmup=0.25, learning_rate=0.003, weight_decay=0.5, clip_norm=clip_norm, evaluations=1)
    ours, reference = tiny.model("xmoe"), tiny.model("xmoe")
    start = {name: p.clone() for name, p in reference.state_dict().items()}
    train(ours, text, config, seed=0)
    norms = by_hand(reference, text, config)
    assert min(norms) > 0.3  # so that the first clips every time, the second never
    moved = {name: p - start[name] for name, p in reference.state_dict().items()}
    difference = {name: p - start[name] for name, p in ours.state_dict().items()}
    assert tiny.worst_tensor(difference, moved) < 2e-3


def test_clipping_bounds_the_first_step(text: PackedDataset) -> None:
    """At a norm far below eps, Adam's step is the gradient's share of it: almost nothing."""
    distances = {}
    for clip_norm in (2.0, 1e-12):
        model, start = tiny.model("dense"), tiny.model("dense")
        train(model, text, with_(steps=1, weight_decay=0.0, clip_norm=clip_norm), seed=0)
        distances[clip_norm] = tiny.difference(model.state_dict(), start.state_dict())
    assert distances[1e-12] < 1e-4 * distances[2.0]


# ---- start and order ------------------------------------------------------------------------


def test_every_parameter_is_drawn_from_the_seed_and_nothing_else() -> None:
    models = []
    for state, seed in ((1, 0), (2, 0), (1, 5)):
        torch.manual_seed(state)
        model = MHMoEForCausalLM(tiny.config("full"))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(7.0)
        seed_parameters(model, seed)
        models.append(dict(model.named_parameters()))
    one, same, other = models
    first, second = (one[f"model.layers.{block}.attention.qkv_proj.weight"] for block in (0, 1))
    assert not torch.equal(first, second)
    for name in one:
        assert torch.equal(one[name], same[name]) and not (one[name] == 7).any(), name
        constant = one[name].unique().numel() == 1  # biases, norms, temperature
        assert torch.equal(one[name], other[name]) is constant, name
        assert constant is ("bias" in name or "norm" in name or "temperature" in name), name


def test_seeding_leaves_the_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    model = MHMoEForCausalLM(tiny.config("dense"))
    torch.manual_seed(3)
    seed_parameters(model, 0)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("seed", [0, 1])
def test_systems_start_from_the_same_values_where_they_share_parameters(seed: int) -> None:
    dense, *others = [dict(tiny.model(system, seed).named_parameters()) for system in tiny.MOE]
    apart = "model.layers.1.feed_forward."
    for other in others:
        shared = {name for name in dense if not name.startswith(apart)}
        assert shared == {name for name in other if not name.startswith(apart)} and len(shared) > 8
        assert all(torch.equal(dense[name], other[name]) for name in shared)


def test_tied_embeddings_stay_tied() -> None:
    model = tiny.model("dense")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def seen_by(system: str, text: PackedDataset, config: TrainingConfig, seed: int) -> list[torch.Tensor]:
    """The inputs of every training step."""
    model, seen = tiny.model(system), list[torch.Tensor]()

    def note(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        if module.training:
            seen.append(arguments[0].clone())

    model.register_forward_pre_hook(note)
    train(model, text, config, seed=seed)
    return seen


def test_all_systems_see_the_same_tokens_in_the_same_order(text: PackedDataset) -> None:
    config = with_(steps=5, evaluations=2)
    dense = torch.cat(seen_by("dense", text, config, seed=3))
    assert torch.equal(dense, torch.cat(seen_by("mhmoe_compute", text, with_(steps=5, micro_batches=2), seed=3)))
    assert torch.equal(dense, torch.cat([batch3[:, :-1] for batch3 in batches_of(text, config, 3)]))
    assert not torch.equal(dense, torch.cat(seen_by("dense", text, config, seed=4)))


def batches_of(text: PackedDataset, config: TrainingConfig, seed: int) -> list[torch.Tensor]:
    batches = TrainingBatches(text.train, config.length, config.batch_sequences, seed)
    return [torch.from_numpy(batches.batch(step)) for step in range(config.steps)]


# ---- a run ----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("system", ["dense", "mhmoe_compute", "full"])
def test_training_learns(text: PackedDataset, system: str, precision: Any) -> None:
    model = tiny.model(system)
    before = evaluate(model, text.valid, 32)["nll_per_token"]
    progress = train(model, text, with_(precision=precision), seed=0)
    assert progress is not None
    after = evaluate(model, text.valid, 32)["nll_per_token"]
    assert before > 5.5 and after < 4.2  # ln 320 = 5.8
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_bfloat16_computes_in_bfloat16(text: PackedDataset) -> None:
    """The losses are those of float32 up to bfloat16's 8 bits, and not the same."""
    (_, (narrow, _)), (_, (wide, _)) = (
        gradients_of(text, "mhmoe_compute", with_(precision=p), 0.0) for p in ("bfloat16", "float32")
    )
    assert 1e-6 < abs(narrow / wide - 1) < 1e-2


def test_the_curve_says_what_was_measured_and_when(text: PackedDataset) -> None:
    config = with_(steps=10, evaluations=5)
    model = tiny.model("xmoe")
    progress = train(model, text, config, seed=0)
    assert progress is not None and progress.step == 10
    assert [point["step"] for point in progress.curve] == [2, 4, 6, 8, 10]
    assert [point["tokens"] for point in progress.curve] == [2 * 256, 4 * 256, 6 * 256, 8 * 256, 2560]
    seconds = [point["seconds"] for point in progress.curve]
    assert seconds[0] > 0 and seconds == sorted(seconds) and seconds[-1] <= round(progress.seconds, 3)
    last = evaluate(model, text.valid, 32, max_windows=config.evaluation_windows)
    assert progress.curve[-1]["valid_nll"] == last["nll_per_token"]
    assert progress.curve[-1]["valid_bits_per_byte"] == last["bits_per_byte"]
    # The point after a step has that step's training losses: of the weights before it.
    one_step = train(tiny.model("xmoe"), text, with_(steps=1), seed=0)
    fresh = tiny.model("xmoe")(batch(text)[:, :-1])
    task = nn.functional.cross_entropy(fresh.logits.flatten(0, 1), batch(text)[:, 1:].flatten())
    assert one_step is not None
    assert one_step.curve[0]["task_loss"] == pytest.approx(task.item(), rel=1e-5)
    assert one_step.curve[0]["balance_loss"] == pytest.approx(fresh.balance_loss.item(), rel=1e-5)


def test_the_seconds_are_those_of_training_without_its_evaluations(text: PackedDataset) -> None:
    model, slept = tiny.model("dense"), list[float]()

    def pause(module: nn.Module, _: Any) -> None:
        slept.append(0.1 if module.training else 0.4)
        time.sleep(slept[-1])

    model.register_forward_pre_hook(pause)
    begun = time.monotonic()
    progress = train(model, text, with_(steps=4, evaluations=2), seed=0)
    assert slept == [0.1, 0.1, 0.4, 0.1, 0.1, 0.4]
    assert progress is not None and 0.4 < progress.seconds < time.monotonic() - begun - 0.8
    assert 0.2 < progress.curve[0]["seconds"] < progress.curve[1]["seconds"] - 0.2


def test_evaluating_more_often_does_not_change_the_weights(text: PackedDataset) -> None:
    weights = []
    for evaluations in (1, 10):
        model = tiny.model("mhmoe_compute")
        train(model, text, with_(steps=10, evaluations=evaluations), seed=0)
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_dense_model_has_no_balance_loss(text: PackedDataset) -> None:
    progress = train(tiny.model("dense"), text, with_(steps=2), seed=0)
    assert progress is not None and {point["balance_loss"] for point in progress.curve} == {0.0}


# In a process of its own: Dynamo cannot trace the shape checks that the tests run with.
COMPILED = """
import dataclasses, sys
from pathlib import Path
from mhmoe.data.packing import load_packed
from mhmoe.training.loop import train
from tests import tiny
import torch
text = load_packed(Path(sys.argv[1]))
# Micro-batches make it compile two graphs: of the counts alone, and of the losses.
config = dataclasses.replace(tiny.TRAINING, steps=4, evaluations=2, batch_sequences=2, length=16, micro_batches=2)
runs = []
for compiled in (False, True):
    model = tiny.model("mhmoe_compute", num_hidden_layers=1, moe_every=1)
    progress = train(model, text, dataclasses.replace(config, compile=compiled), seed=0)
    runs.append((progress.curve, model.state_dict()))
graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
torch.save({"eager": runs[0], "compiled": runs[1], "graphs": graphs}, sys.argv[2])
"""


@pytest.mark.slow
def test_compiled_losses_and_weights_are_those_of_eager(text: PackedDataset, tmp_path: Path) -> None:
    if not any(shutil.which(compiler) for compiler in ("g++", "clang++", "c++")):
        pytest.skip("torch.compile needs a C++ compiler and there is none on the path")
    done = program(COMPILED, text.folder, tmp_path / "out").wait()
    assert done.code == 0, done.err
    out = torch.load(tmp_path / "out")
    assert out["graphs"] >= 2
    (eager_curve, eager), (compiled_curve, compiled) = out["eager"], out["compiled"]
    for one, other in zip(compiled_curve, eager_curve, strict=True):
        for name in ("task_loss", "balance_loss", "valid_nll"):
            assert one[name] == pytest.approx(other[name], rel=1e-4)
    assert tiny.worst_tensor(compiled, eager) < 1e-3


# ---- what stops it --------------------------------------------------------------------------


def test_sequences_longer_than_the_model_reads_are_refused_before_training(text: PackedDataset) -> None:
    model = tiny.model("dense", max_position_embeddings=31)
    with pytest.raises(UserError, match=r"^length=32 exceeds the model's max_position_embeddings=31; "):
        train(model, text, tiny.TRAINING, seed=0)


def test_text_with_tokens_that_the_model_has_not_is_refused_before_training(text: PackedDataset) -> None:
    largest = int(text.train.max())
    model = tiny.model("dense", vocab_size=largest)
    with pytest.raises(UserError, match=rf"^the text has token {largest}, the model vocab_size={largest}; "):
        train(model, text, tiny.TRAINING, seed=0)
    odd = dataclasses.replace(text, valid=dataclasses.replace(text.valid, tokens=text.valid.tokens + 400))
    with pytest.raises(UserError, match=r"^the text has token \d+, the model vocab_size=320; "):
        train(tiny.model("dense"), odd, tiny.TRAINING, seed=0)


def broken_weights(model: MHMoEForCausalLM) -> None:
    with torch.no_grad():
        model.get_parameter("model.norm.weight")[0] = math.nan


@pytest.mark.parametrize(
    ("spoil", "config", "message"),
    [
        (broken_weights, tiny.TRAINING, r"^tiny run: the task loss is not finite at step 0 \(nan\)"),
        (
            lambda _: None,
            with_(learning_rate=1e30),
            r"^tiny run: the .* is not finite at step \d+ \(.*1e\+30$",
        ),
    ],
)
def test_a_loss_that_is_not_finite_stops_with_one_clear_line(
    text: PackedDataset, spoil: Callable[[MHMoEForCausalLM], None], config: TrainingConfig, message: str
) -> None:
    model = tiny.model("mhmoe_compute")
    spoil(model)
    with pytest.raises(UserError, match=message) as caught:
        train(model, text, config, seed=0, label="tiny run")
    assert "Lower learning_rate=" in str(caught.value) and "\n" not in str(caught.value)


def test_processes_that_have_not_met_do_not_train_one_by_one(
    text: PackedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"have not met; call torch\.distributed\.init_process_group before"):
        train(tiny.model("dense"), text, tiny.TRAINING, seed=0)


def test_weights_that_break_in_the_last_step_are_not_a_result(text: PackedDataset) -> None:
    with pytest.raises(UserError, match=r"^the loss on valid is not finite at step 1"):
        train(tiny.model("xmoe"), text, with_(steps=1, learning_rate=1e38), seed=0)


def test_a_loss_that_is_huge_but_finite_does_not_stop_it(text: PackedDataset) -> None:
    """exp(valid nll) overflows a float beyond 709."""
    model = tiny.model("dense")
    with torch.no_grad():
        model.get_parameter("model.norm.weight").mul_(1e4)
    progress = train(model, text, with_(steps=2, learning_rate=1e-9), seed=0)
    assert progress is not None and progress.curve[-1]["valid_nll"] > 1000


def test_peak_memory_counts_anew_after_a_reset() -> None:
    device = torch.device("cpu")
    reset_peak_memory(device)
    before = peak_memory(device)
    block = torch.ones(25_000_000)  # 100 MB
    assert peak_memory(device) > before + 80e6
    del block
    with_block = peak_memory(device)
    reset_peak_memory(device)
    assert peak_memory(device) < with_block - 80e6


def test_progress_starts_at_nothing() -> None:
    assert dataclasses.asdict(TrainState()) == {"step": 0, "seconds": 0.0, "curve": [], "due": None}
