"""Training the language model: gradients, precision, and where its parameters start."""

import copy
import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import Tensor
from transformers import AutoModelForCausalLM, set_seed

from mhmoe.io import UserError
from mhmoe.layers.routers import (
    DotProductRouterConfig,
    FixedTemperatureRouterConfig,
    ReleasedRouterConfig,
    RouterConfig,
    XMoERouterConfig,
)
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.loop import seed_parameters, train
from tests import reference, tiny
from tests.small import every_system, gradients, make, make_config, tokens, xmoe


@pytest.mark.parametrize("system", ["dense", "mhmoe compute"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(system: str, reentrant: bool) -> None:
    model, ids = make(system).train(), tokens()
    checkpointed = copy.deepcopy(model)
    enable = getattr(checkpointed, "activation_checkpointing_enable", checkpointed.gradient_checkpointing_enable)
    enable({"use_reentrant": reentrant})
    assert all(block.gradient_checkpointing for block in checkpointed.model.layers)
    plain, again = gradients(model, ids), gradients(checkpointed, ids)
    assert plain.keys() == again.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    with_cache = gradients(checkpointed, ids, use_cache=True)  # which is dropped, not filled twice
    assert all(torch.equal(plain[name], with_cache[name]) for name in plain)


def test_a_few_steps_learn_a_sequence_by_heart() -> None:
    model, ids = make("mhmoe parameters").train(), tokens(2, 16)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses: list[float] = []
    for _ in range(15):
        output = model(ids, labels=ids)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.task_loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_a_model_of_another_type_stays_near_float32(dtype: torch.dtype) -> None:
    model, ids = make("xmoe"), tokens(4, 9)
    other = copy.deepcopy(model).to(dtype)
    ours, exact = other(ids, output_routing=True), model(ids, output_routing=True)
    assert ours.logits.dtype == dtype
    agree = (ours.routing[0].index == exact.routing[0].index).all(-1)
    assert agree.float().mean() > 0.8
    error = reference.error(ours.logits[agree], exact.logits[agree])
    assert error < (1e-5 if dtype == torch.float64 else 0.05)


def test_autocast_trains_every_parameter_near_float32() -> None:
    model, ids = make("dense"), tokens(4, 9)
    exact = gradients(model, ids)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = gradients(model, ids)
    assert exact.keys() == under_autocast.keys()
    for name, gradient in exact.items():
        assert 1e-5 < reference.error(under_autocast[name], gradient) < 0.1, name
        assert under_autocast[name].dtype == torch.float32


def test_the_seed_decides_where_a_model_starts() -> None:
    states: list[dict[str, Tensor]] = []
    for seed in (1, 1, 2):
        set_seed(seed)
        states.append(MHMoEForCausalLM(make_config("xmoe")).state_dict())
    one, again, other = states
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_initialisation_is_the_documented_one() -> None:
    model = make("dense", hidden_size=96, vocab_size=2048, tie_word_embeddings=False, feed_forward=None)
    attention = model.model.layers[0].attention
    bound = (6 / (96 + 96)) ** 0.5
    for part in attention.qkv_proj.weight.chunk(3):
        assert 0.98 * 2**-0.5 * bound < part.abs().max() <= 2**-0.5 * bound
    assert 0.98 * bound < attention.o_proj.weight.abs().max() <= bound
    for weight in (model.model.embed_tokens.weight, model.lm_head.weight):
        assert weight.std().item() == pytest.approx(96**-0.5, rel=0.03)
    down = model.model.layers[0].feed_forward.down_proj.weight
    assert down.std().item() == pytest.approx((4 * 96) ** -0.5, rel=0.03)
    hidden = model(tokens(8, 16), output_hidden_states=True).hidden_states
    assert hidden[0].std().item() == pytest.approx(1, rel=0.1)
    assert len(hidden) == 3


@every_system
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_model_from_the_meta_device_gets_every_parameter_from_init_weights(system: str, tied: bool) -> None:
    options: dict[str, Any] = {"tie_word_embeddings": tied, "attention_bias": True}
    with torch.device("meta"):
        model = MHMoEForCausalLM(make_config(system, **options))
    assert all(parameter.is_meta for parameter in model.parameters())
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.fill_(torch.nan)
    model.init_weights()
    ours, other = dict(model.named_parameters()), dict(make(system, **options).named_parameters())
    assert ours.keys() == other.keys()
    for name, parameter in ours.items():  # as large as where a model was made in the ordinary way
        assert parameter.std(correction=0).item() == pytest.approx(other[name].std(correction=0).item(), rel=0.5), name
        assert parameter.mean().item() == pytest.approx(other[name].mean().item(), abs=0.2), name


ROUTERS = (DotProductRouterConfig, XMoERouterConfig, ReleasedRouterConfig, FixedTemperatureRouterConfig)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("router", ROUTERS)
def test_a_model_made_in_half_precision_starts_as_large_as_in_float32(
    router: type[RouterConfig], dtype: torch.dtype
) -> None:
    moe = dataclasses.replace(xmoe(style=True), router=router(dim=24, num_experts=4))
    half, exact = [AutoModelForCausalLM.from_config(make_config(moe=moe), dtype=d) for d in (dtype, torch.float32)]
    assert {parameter.dtype for parameter in half.parameters()} == {dtype}
    for name, parameter in exact.named_parameters():
        ours = half.get_parameter(name).float()
        assert ours.norm().item() == pytest.approx(parameter.norm().item(), rel=0.3), name
    assert half(tokens()).logits.isfinite().all()


def test_what_a_folder_holds_is_not_drawn_anew_where_a_size_differs(tmp_path: Path) -> None:
    model = make("mhmoe parameters", tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    options: dict[str, Any] = {"vocab_size": 70, "ignore_mismatched_sizes": True}
    larger = AutoModelForCausalLM.from_pretrained(tmp_path, **options).state_dict()
    for name, value in model.state_dict().items():
        assert name in ("model.embed_tokens.weight", "lm_head.weight") or torch.equal(value, larger[name]), name


def test_an_output_layer_of_its_own_starts_from_the_seed_and_its_name() -> None:
    model = MHMoEForCausalLM(make_config("dense", tie_word_embeddings=False))
    seed_parameters(model, 3)
    drawn = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(b"3/lm_head").digest()[:7]))
    assert torch.equal(model.lm_head.weight, torch.empty(61, 24).normal_(std=24**-0.5, generator=drawn))


def test_training_on_more_tokens_than_the_model_has_positions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="length=32 exceeds the model's max_position_embeddings=16; train on shorter"):
        train(tiny.model("dense", max_position_embeddings=16), tiny.text(tmp_path), tiny.TRAINING, seed=0)


def test_blocks_on_several_devices_have_one_loss() -> None:
    model = tiny.model("mhmoe_compute", moe_every=1, tie_word_embeddings=False).train()
    for part in (model.model.layers[1], model.model.norm, model.lm_head):  # as device_map has them
        add_hook_to_module(part.to("meta"), AlignDevicesHook(execution_device="meta"))
    ids = torch.zeros(2, 8, dtype=torch.long)
    for counted in ({}, {"num_items_in_batch": torch.tensor(14)}):
        output = model(ids, labels=ids, **counted)
        assert output.loss.device.type == output.balance_loss.device.type == "meta" and output.loss.shape == ()
