"""The compared systems: counts against what their papers print, and layers against independent implementations."""

import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DeepseekV2Config, JambaConfig, JambaForCausalLM, MixtralConfig, NemotronHConfig
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe
from transformers.models.jamba.modeling_jamba import JambaSparseMoeBlock
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHMoE

from baselines.counting import Published
from baselines.deepseekmoe import deepseekmoe
from baselines.jamba import PLACEMENT, jamba, mamba_parameters
from baselines.latentmoe import latentmoe
from baselines.mixtral import mixtral
from mhmoe.layers.config import LayerConfig, config_from_dict
from tests import reference
from tests.small import make_config
from tests.systems import SIZES, SYSTEMS, module, small

MODELS: dict[str, Published] = {
    name: model
    for system in SYSTEMS
    if hasattr(module(system), "published")
    for name, model in module(system).published().items()
}
# Printed with so many digits; a total that its own sizes contradict has its own test below.
WITHIN = {
    "Mixtral 8x7B": (0.05, 0.05),
    "Mixtral 8x22B": (0.5, 0.5),
    "DeepSeekMoE 16B": (0.05, 0.05),
    "GLaM 64B/64E": (50, 0.05),
    "Switch-Base": (0.05, None),
    "Switch-C": (0.5, None),
    "Jamba": (0.5, 0.5),
    "MoE-4": (0.00005, None),
    "MoE-256-h": (0.00005, None),
    "MoE-1024-h": (0.00005, None),
    "MoE-4096-h": (0.00005, None),
}


@pytest.mark.parametrize("name", WITHIN)
def test_the_sizes_give_the_printed_parameters_as_far_as_they_are_printed(name: str) -> None:
    model, (of_total, of_active) = MODELS[name], WITHIN[name]
    assert abs(model.parameters() / 1e9 - model.total) <= of_total
    if of_active is not None:
        assert model.active is not None and abs(model.active_parameters() / 1e9 - model.active) <= of_active


def test_grok_1_is_half_a_percent_larger_than_printed_and_uses_more_than_a_quarter() -> None:
    grok = MODELS["Grok-1"]
    assert grok.parameters() / 1e9 == pytest.approx(315.7, abs=0.05) and grok.total == 314
    assert grok.active_parameters() / grok.parameters() == pytest.approx(0.265, abs=0.001)


def test_the_totals_that_gshard_prints_are_those_of_its_sizes_within_four_percent() -> None:
    gshard_600b = MODELS["MoE(2048E, 36L)"]
    assert gshard_600b.parameters() / 1e9 == pytest.approx(gshard_600b.total, rel=0.04)


@pytest.mark.parametrize("name", ["Nemotron 3 Super, mixtures", "Kimi K3, mixtures"])
def test_the_mixtures_of_latent_models_are_nearly_all_of_their_parameters(name: str) -> None:
    assert 0.95 < MODELS[name].parameters() / 1e9 / MODELS[name].total < 1
    assert 0.5 < MODELS[name].active_parameters() / 1e9 / (MODELS[name].active or math.nan) < 1


def test_every_published_model_is_held_to_its_paper() -> None:
    elsewhere = {"Grok-1", "MoE(2048E, 36L)", "Nemotron 3 Super, mixtures", "Kimi K3, mixtures"}
    assert MODELS.keys() == WITHIN.keys() | elsewhere


def test_attention_embeddings_and_norms_are_those_of_a_built_model() -> None:
    config = make_config("xmoe", num_hidden_layers=4, tie_word_embeddings=False)
    moe, between = config.layer(1), config.layer(0)
    assert isinstance(moe, LayerConfig) and isinstance(between, LayerConfig)
    ours = Published(layers=4, moe=moe, moe_layers=2, dense=between, heads=2, head_dim=12, vocab_size=61, total=0)
    assert ours.parameters() == config.parameters()
    assert ours.active_parameters() == config.active_parameters()


def test_grouped_queries_and_mamba_count_what_transformers_builds() -> None:
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "use_mamba_kernels": False,
    }
    config = JambaConfig(vocab_size=40, intermediate_size=24, num_hidden_layers=8, num_experts=4, **sizes)
    with torch.device("meta"):
        theirs = JambaForCausalLM(config)
    ours = Published(
        layers=8,
        moe=jamba(64, 4, expert_dim=24),
        moe_layers=4,
        dense=mixtral(64, 1, expert_dim=24, top_k=1),
        heads=8,
        head_dim=8,
        kv_heads=2,
        attentions=1,
        vocab_size=40,
        other=7 * (mamba_parameters(64) + 64) - 4 * 64,  # 7 norms before Mamba; no routers in dense blocks
        total=0,
    )
    assert ours.parameters() == sum(p.numel() for p in theirs.parameters())


# Layers


def test_every_system_says_what_is_not_published_and_where_ours_departs() -> None:
    for system in SYSTEMS:
        text = inspect.getdoc(module(system)) or ""
        assert "Not published" in text or "Not held here" in text, system
        assert "Departures" in text, system


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name not in ("dense", "xmoe")])  # which have none
def test_an_inner_width_of_0_is_refused_and_not_taken_for_the_default(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIZES, "expert_dim", 0)
    with pytest.raises(ValueError, match=r"expert_dim=0 is not allowed|inner_dim=0 is not allowed"):
        small(getattr(module(name), name))


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_trains_for_one_step_and_comes_back_from_json(name: str) -> None:
    layer, x = SYSTEMS[name].build().train(), torch.randn(2, 5, 24)
    assert config_from_dict(SYSTEMS[name].to_dict()) == SYSTEMS[name]
    assert sum(p.numel() for p in layer.parameters()) == SYSTEMS[name].parameters()
    output = layer(x)
    (output.hidden.square().sum() + (0 if output.balance_loss is None else output.balance_loss)).backward()
    assert output.hidden.shape == x.shape
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_the_placement_of_jamba_is_that_of_transformers_config() -> None:
    config = make_config("xmoe", num_hidden_layers=8, **PLACEMENT)
    theirs = JambaConfig(num_hidden_layers=8)
    assert [config.is_moe_block(block) for block in range(8)] == [n > 1 for n in theirs.layers_num_experts]


def same(ours: nn.Module, theirs: nn.Module, names: dict[str, str], width: int = 24) -> None:
    """Weights copied from ours to theirs by name (several of ours are laid below each other); all must agree."""
    reference.randomise(ours, 0)
    weights = dict(ours.named_parameters())
    parts: dict[str, Tensor] = {}
    for name, theirs_name in names.items():
        halves = theirs_name.split("+")
        parts |= dict(zip(halves, weights[name].chunk(len(halves)), strict=True))
    assert set(names) == set(weights)
    missing, unexpected = theirs.load_state_dict({k: v.detach() for k, v in parts.items()}, strict=False)
    assert unexpected == [] and all("bias" in name for name in missing), (missing, unexpected)  # of balance, 0
    x = torch.randn(3, 7, width)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, their_out = ours(one).hidden, theirs(other)
    direction = torch.randn_like(x)
    (out * direction).sum().backward()
    (their_out * direction).sum().backward()
    assert reference.error(out, their_out) < 1e-5
    assert one.grad is not None and other.grad is not None and reference.error(one.grad, other.grad) < 1e-5
    their_parameters = dict(theirs.named_parameters())
    for name, theirs_name in names.items():
        grad = torch.cat([their_parameters[half].grad for half in theirs_name.split("+")])  # pyright: ignore
        ours_grad = weights[name].grad
        assert ours_grad is not None and reference.error(ours_grad, grad) < 1e-5, name


def test_mixtral_is_the_block_of_transformers() -> None:
    config = MixtralConfig(
        hidden_size=24, intermediate_size=84, num_local_experts=4, num_experts_per_tok=2, router_jitter_noise=0.0
    )
    theirs = MixtralSparseMoeBlock(config)
    names = {
        "router.expert_embeddings": "gate.weight",
        "experts.up_proj": "experts.gate_up_proj",
        "experts.down_proj": "experts.down_proj",
    }
    same(mixtral(24, 4).build(), theirs, names)


def test_jamba_is_the_block_of_transformers() -> None:
    config = JambaConfig(hidden_size=24, intermediate_size=84, num_experts=4, num_experts_per_tok=2)
    theirs = JambaSparseMoeBlock(config)
    names = {
        "router.expert_embeddings": "router.weight",
        "experts.up_proj": "experts.gate_up_proj",
        "experts.down_proj": "experts.down_proj",
    }
    same(jamba(24, 4).build(), theirs, names)


def test_deepseekmoe_is_the_block_of_transformers_with_two_shared_experts() -> None:
    config = DeepseekV2Config(
        hidden_size=24,
        num_attention_heads=2,
        moe_intermediate_size=10,
        n_routed_experts=8,
        num_experts_per_tok=3,
        n_shared_experts=2,
        topk_method="greedy",
        routed_scaling_factor=1.0,
        norm_topk_prob=False,
    )
    theirs = DeepseekV2Moe(config)
    names = {
        "router.expert_embeddings": "gate.weight",
        "experts.up_proj": "experts.gate_up_proj",
        "experts.down_proj": "experts.down_proj",
        "shared.up_proj.weight": "shared_experts.gate_proj.weight+shared_experts.up_proj.weight",
        "shared.down_proj.weight": "shared_experts.down_proj.weight",
    }
    same(deepseekmoe(24, 8, 3, 2, expert_dim=10).build(), theirs, names)


def test_latentmoe_without_the_norm_is_nemotrons_block_of_transformers() -> None:
    config = NemotronHConfig(
        hidden_size=24,
        moe_latent_size=12,
        moe_intermediate_size=8,
        moe_shared_expert_intermediate_size=20,
        n_routed_experts=8,
        num_experts_per_tok=3,
        n_group=1,
        topk_group=1,
        norm_topk_prob=True,
        routed_scaling_factor=1.0,
        mlp_hidden_act="gelu",
        mlp_bias=False,
    )
    theirs = NemotronHMoE(config)
    names = {
        "inner.router.expert_embeddings": "gate.weight",
        "inner.experts.up_proj": "experts.up_proj",
        "inner.experts.down_proj": "experts.down_proj",
        "to_latent.weight": "fc1_latent_proj.weight",
        "from_latent.weight": "fc2_latent_proj.weight",
        "shared.up_proj.weight": "shared_experts.up_proj.weight",
        "shared.down_proj.weight": "shared_experts.down_proj.weight",
    }
    same(latentmoe(24, 12, 8, 3, expert_dim=8, shared_dim=20).build(), theirs, names)
