"""The language model: a transformers model like any other, with its losses and routing apart."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, set_seed

from mhmoe import dispatch
from mhmoe.configs import Config
from mhmoe.configuration import MHMoEConfig
from mhmoe.experts import ExpertsConfig, FeedForwardConfig
from mhmoe.language_model import MHMoEForCausalLM
from mhmoe.matching import Reading, match
from mhmoe.multi_head import multi_head_moe
from mhmoe.routers import XMoERouterConfig
from mhmoe.sparse_moe import ResidualConfig, SparseMoEConfig
from tests import reference

ROOT = Path(__file__).parents[1]
DIM = 24


def xmoe(style: bool = False, activation: str = "gelu") -> SparseMoEConfig:
    return SparseMoEConfig(
        router=XMoERouterConfig(dim=DIM, num_experts=4, top_k=1),
        experts=ExpertsConfig(
            dim=DIM,
            num_experts=4,
            expert_dim=4 * DIM,
            activation=activation,  # pyright: ignore[reportArgumentType]
            bias=style,
            inner_norm=style,
        ),
    )


def matched(reading: Reading, heads: int = 2, top_k: int = 1, **style: Any) -> Config:
    return match(reading, xmoe(**style), heads=heads, top_k=top_k)


MOE: dict[str, Config | None] = {
    "dense": None,
    "xmoe": xmoe(),
    "xmoe with biases and norms": xmoe(style=True),
    "mhmoe equation": matched("equation"),
    "mhmoe parameters": matched("parameters", heads=3, style=True),
    "mhmoe compute": matched("compute", top_k=2, activation="swiglu"),
    "mhmoe residual, deep": ResidualConfig(
        inner=multi_head_moe(
            dim=DIM,
            num_experts=4,
            expert_dim=8,
            moe_heads=4,
            head_layers=3,
            merge_layers=2,
            inner_residual=True,
        )
    ),
    "mhmoe bare": multi_head_moe(dim=DIM, num_experts=4, expert_dim=8, moe_heads=4, head_layers=0, merge_layers=0),
}
every_system = pytest.mark.parametrize("system", MOE)


def make_config(system: str = "mhmoe compute", **changes: Any) -> MHMoEConfig:
    moe = MOE[system]
    sizes: dict[str, Any] = {
        "vocab_size": 61,
        "hidden_size": DIM,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
        "moe": None if moe is None else moe.to_dict(),
        "eos_token_id": None,
    }
    return MHMoEConfig(**sizes | changes)


def make(system: str = "mhmoe compute", seed: int = 0, attention: str = "sdpa", **changes: Any) -> Any:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(make_config(system, **changes), attn_implementation=attention)
    return model.eval()


def tokens(batch: int = 2, length: int = 9) -> Tensor:
    return torch.randint(1, 61, (batch, length))


# Sizes

OPTIONS: list[dict[str, Any]] = [
    {},
    {"tie_word_embeddings": False, "norm": "layer", "attention_bias": True, "num_hidden_layers": 3},
    {"moe_every": 1, "feed_forward": FeedForwardConfig(dim=DIM, inner_dim=20, activation="swiglu").to_dict()},
]


@pytest.mark.parametrize("options", OPTIONS, ids=["", "untied, layer norm, biases", "every block"])
@every_system
def test_parameters_and_flops_counted_from_the_config_are_those_of_the_model(
    system: str, options: dict[str, Any]
) -> None:
    model = make(system, attention="eager", **options)  # torch does not count its fused kernel for CPUs
    assert sum(p.numel() for p in model.parameters()) == model.config.parameters()

    def product(x: tuple[int, int], weight: tuple[int, int, int], *_: Any, **__: Any) -> int:
        return 2 * x[0] * x[1] * weight[1]

    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.mhmoe.grouped_linear: product})
    # Rows that fill up an expert's share are the fast product's overhead, not the model's work.
    with patch.object(dispatch, "BLOCK", 1), counter:
        model(tokens(3, 8))
    assert counter.get_total_flops() == 3 * 8 * model.config.flops_per_token(8)


def test_active_parameters_leave_out_the_experts_that_one_token_does_not_choose() -> None:
    config = make_config("xmoe")
    one_expert = 2 * DIM * 4 * DIM
    assert config.active_parameters() == config.parameters() - 3 * one_expert
    dense = make_config("dense")
    assert dense.active_parameters() == dense.parameters()


def test_moe_layers_stand_in_every_second_block_and_the_last() -> None:
    config = make_config("xmoe", num_hidden_layers=6)
    assert [config.is_moe_block(block) for block in range(6)] == [False, True] * 3


# Losses and routing


def test_the_loss_is_the_task_loss_plus_the_weighted_mean_of_the_balance_losses() -> None:
    model, ids = make("xmoe", num_hidden_layers=4, balance_weight=0.25), tokens()
    output = model(ids, labels=ids, output_routing=True)
    nll = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert torch.allclose(output.task_loss, nll)
    balances = [
        reference.balance_loss(
            list(r.probabilities.flatten(0, -2)), r.index.flatten(0, -2).tolist(), [True] * ids.numel()
        )
        for r in output.routing
    ]
    assert len(balances) == 2
    assert output.balance_loss.item() == pytest.approx(sum(b.item() for b in balances) / 2, rel=1e-5)
    assert torch.allclose(output.loss, output.task_loss + 0.25 * output.balance_loss)


def test_a_dense_model_has_no_balance_loss_and_no_routing() -> None:
    model, ids = make("dense"), tokens()
    output = model(ids, labels=ids, output_routing=True)
    assert output.balance_loss is None and output.routing == ()
    assert torch.equal(output.loss, output.task_loss)


def test_labels_of_minus_100_do_not_count() -> None:
    model, ids = make(), tokens(1, 9)
    labels = ids.clone()
    labels[:, 5:] = -100
    assert torch.allclose(model(ids, labels=labels).task_loss, model(ids[:, :5], labels=ids[:, :5]).task_loss)


def test_routing_is_returned_on_request_with_the_axes_of_the_batch() -> None:
    model, ids = make("mhmoe parameters", num_hidden_layers=4), tokens(2, 7)
    assert model(ids).routing is None
    output = model(ids, output_routing=True)
    assert len(output.routing) == 2
    for routing in output.routing:
        assert routing.index.shape == routing.weight.shape == routing.kept.shape == (2, 7, 3, 1)
        assert routing.probabilities.shape == (2, 7, 3, 4)


def test_padded_tokens_are_not_routed_and_not_counted() -> None:
    model, ids = make("mhmoe parameters"), tokens(2, 8)
    mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    other = torch.where(mask.bool(), ids, 60 - ids)
    output, output_other = (model(i, attention_mask=mask, output_routing=True) for i in (ids, other))
    assert torch.equal(output.routing[0].kept[..., 0, 0], mask.bool())
    assert torch.equal(output.balance_loss, output_other.balance_loss)
    assert torch.allclose(output.logits[mask.bool()], output_other.logits[mask.bool()], atol=1e-5)
    alone = [model(ids[:1]), model(ids[1:, :5])]
    assert torch.allclose(output.logits[1, :5], alone[1].logits[0], atol=1e-4)
    assert not torch.allclose(output.balance_loss, model(ids).balance_loss, atol=1e-6)


# Attention


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_no_token_sees_a_later_one(implementation: str) -> None:
    model, ids = make(attention=implementation), tokens(1, 9)
    assert model.config._attn_implementation == implementation
    changed = ids.clone()
    changed[:, 6:] = 61 - changed[:, 6:]
    for mask in (None, torch.ones_like(ids)):
        before, after = (model(i, attention_mask=mask).logits for i in (ids, changed))
        assert torch.allclose(before[:, :6], after[:, :6], atol=1e-5)
        assert not torch.allclose(before[:, 6:], after[:, 6:], atol=1e-2)


def test_attention_implementations_agree() -> None:
    ids = tokens(2, 9)
    mask = torch.tensor([[1] * 9, [0] * 4 + [1] * 5])
    sdpa, eager = make(attention="sdpa"), make(attention="eager")
    for given in (None, torch.ones_like(ids), mask):
        ours, theirs = (m(ids, attention_mask=given).logits for m in (sdpa, eager))
        seen = mask.bool() if given is mask else torch.ones_like(ids, dtype=torch.bool)
        assert torch.allclose(ours[seen], theirs[seen], atol=1e-4)


def test_positions_count_by_their_distance_alone() -> None:
    model, ids = make(), tokens(1, 9)
    positions = torch.arange(9).unsqueeze(0)
    here, shifted, stretched = (model(ids, position_ids=p).logits for p in (positions, positions + 20, positions * 2))
    assert torch.allclose(here, shifted, atol=1e-4)
    assert not torch.allclose(here, stretched, atol=1e-2)
    assert torch.equal(here, model(ids).logits)


def test_embeddings_given_are_as_good_as_tokens() -> None:
    model, ids = make(), tokens()
    assert torch.equal(model(inputs_embeds=model.get_input_embeddings()(ids)).logits, model(ids).logits)
    with pytest.raises(ValueError, match="give exactly one of input_ids and inputs_embeds"):
        model()


# Generation


@pytest.mark.parametrize("system", ["dense", "xmoe", "mhmoe parameters"])
def test_generating_with_the_cache_gives_what_generating_without_gives(system: str) -> None:
    model, ids = make(system), tokens(2, 5)
    outputs = [
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=8,
            do_sample=False,
            use_cache=use_cache,
            return_dict_in_generate=True,
            output_logits=True,
        )
        for use_cache in (True, False)
    ]
    with_cache, without = outputs
    assert torch.equal(with_cache.sequences, without.sequences)
    assert with_cache.sequences.shape == (2, 13)
    for ours, theirs in zip(with_cache.logits, without.logits, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_a_sequence_cut_in_two_through_the_cache_gives_the_same_logits() -> None:
    model, ids = make(), tokens(2, 9)
    first = model(ids[:, :4], use_cache=True)
    second = model(ids[:, 4:], past_key_values=first.past_key_values)
    assert torch.allclose(torch.cat([first.logits, second.logits], dim=1), model(ids).logits, atol=1e-4)


def test_a_left_padded_batch_generates_what_each_prompt_generates_alone() -> None:
    model = make("mhmoe parameters")
    short, long = tokens(1, 4), tokens(1, 7)
    batch = torch.cat([torch.cat([torch.zeros(1, 3, dtype=torch.long), short], dim=1), long])
    mask = torch.tensor([[0] * 3 + [1] * 4, [1] * 7])
    together = model.generate(batch, attention_mask=mask, max_new_tokens=6, do_sample=False)
    for prompt, row in ((short, together[0]), (long, together[1])):
        alone = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, do_sample=False)
        assert torch.equal(row[7:], alone[0, prompt.shape[1] :])
    padded = model(batch, attention_mask=mask).logits[0, 3:]
    assert torch.allclose(padded, model(short).logits[0], atol=1e-4)


def test_only_the_logits_asked_for_are_computed() -> None:
    model, ids = make(), tokens()
    whole = model(ids).logits
    assert torch.allclose(model(ids, logits_to_keep=2).logits, whole[:, -2:], atol=1e-6)
    assert torch.allclose(model(ids, logits_to_keep=torch.tensor([0, 3])).logits, whole[:, [0, 3]], atol=1e-6)


# Saving and loading


def test_a_folder_that_lacks_a_weight_is_refused_and_none_is_made_up(tmp_path: Path) -> None:
    make("mhmoe compute").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if name.endswith("attention.o_proj.weight"))
    del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"does not fit its config: 1 missing weights, such as {name};"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("untied", [False, True], ids=["tied", "untied"])
@every_system
def test_a_saved_model_loads_through_the_auto_classes_bit_for_bit(system: str, untied: bool, tmp_path: Path) -> None:
    model = make(system, tie_word_embeddings=not untied)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(loaded) is MHMoEForCausalLM
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.moe, config.feed_forward) == (model.config.moe, model.config.feed_forward)
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    tied = loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert tied != untied
    ids = tokens()
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_an_unchanged_config_survives_the_disk(tmp_path: Path) -> None:
    changes = {
        "norm": "layer",
        "norm_eps": 1e-5,
        "attention_bias": True,
        "rope_theta": 500.0,
        "balance_weight": 0.125,
    }
    config = make_config(moe_every=1, tie_word_embeddings=False, **changes)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, MHMoEConfig)
    for name in MHMoEConfig.__annotations__:
        assert getattr(loaded, name) == getattr(config, name), name


FROM_THE_FOLDER_ALONE = """
import json, sys
import torch
from transformers import AutoModelForCausalLM
assert "mhmoe" not in sys.modules
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
logits = model(torch.tensor(json.loads(sys.argv[2]))).logits
print(json.dumps([float(v) for v in logits.flatten()]))
"""


def test_a_saved_folder_loads_where_nobody_imported_the_package(tmp_path: Path) -> None:
    model, ids = make("mhmoe parameters"), tokens(1, 6)
    model.save_pretrained(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-c", FROM_THE_FOLDER_ALONE, str(tmp_path / "model"), json.dumps(ids.tolist())],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == model(ids).logits.flatten().tolist()


def test_a_checkpoint_cut_short_is_an_error(tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SafetensorError, match=r"incomplete metadata|not fully covered"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"moe_experts": 8}, "MHMoEConfig has no key 'moe_experts'; it has vocab_size, hidden_size"),
        (
            {"num_attention_heads": 5},
            "num_attention_heads=5 does not cut hidden_size=24 into even .*1, 2, 3, 4, 6, 12",
        ),
        ({"num_attention_heads": 8}, "num_attention_heads=8 does not cut hidden_size=24 into even"),
        ({"hidden_size": 0}, "hidden_size=0 is not allowed; it must be at least 1"),
        ({"max_position_embeddings": 0}, "max_position_embeddings=0 is not allowed"),
        ({"norm": "batch"}, "norm='batch' is not known; choose one of rms, layer"),
        ({"balance_weight": -0.1}, "balance_weight=-0.1 is not allowed; it must be at least 0"),
        ({"moe_every": 3}, "moe_every=3 exceeds num_hidden_layers=2, .*; choose at most 2"),
        ({"hidden_size": 48}, "feed_forward has dim=24, the model hidden_size=48; give both the same"),
        (
            {"moe": FeedForwardConfig(dim=8, inner_dim=8).to_dict()},
            "feed_forward has dim=8, the model hidden_size=24",
        ),
        (
            {"moe": ResidualConfig(inner=FeedForwardConfig(dim=8, inner_dim=8)).to_dict()},
            "residual has dim=8",
        ),
        ({"moe": xmoe().router.to_dict()}, "xmoe_router is a part of a layer; give a whole one"),
        ({"moe": {"kind": "switch"}}, "kind='switch' is not known; choose one of .*sparse_moe"),
        ({"moe": xmoe().to_dict() | {"top_k": 2}}, "sparse_moe has no field 'top_k'; it has router, experts"),
        (
            {"moe": {"kind": "sparse_moe", "router": xmoe().router.to_dict()}},
            "sparse_moe needs the field 'experts'",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(next(iter(value))),
)
def test_an_edited_config_file_that_fits_nothing_is_refused_by_name(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    make_config("xmoe").save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        AutoConfig.from_pretrained(tmp_path)


# Training


def gradients(model: Any, ids: Tensor, **inputs: Any) -> dict[str, Tensor]:
    model.zero_grad()
    model(ids, labels=ids, **inputs).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


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


def test_trainer_divides_the_loss_by_its_accumulation_steps() -> None:
    """transformers' Trainer leaves that to models whose forward takes any keyword, unless they say otherwise."""
    assert make().accepts_loss_kwargs is False


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
