"""The systems of the field have X-MoE's cost, alone and inside the heads, and settings leave alone what they are."""

import re
from pathlib import Path

import pytest
import torch

from analysis.claims.rules import Claim
from experiments.compare_combinations import PAGE as COMBINATIONS
from experiments.compare_combinations import PAIRS
from experiments.compare_systems import PAGE as SYSTEMS
from experiments.field import FAMILIES, JAMBA, LATENTMOE_K3, VARIANTS, Family, alone, system, with_heads
from experiments.layers import reference
from experiments.runner import store
from experiments.runner.runs import model_config
from experiments.runner.store import Records
from experiments.scales import CPU, SCALES, SMOKE, Scale
from experiments.settings import Settings, points, with_settings
from experiments.tuning import TOP_K, at_best, tuned
from mhmoe.layers.config import LayerConfig
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.multi_head import MultiHeadConfig
from mhmoe.layers.normed import NormedConfig
from mhmoe.layers.routing import RouterConfig

EVERY = [*FAMILIES, *VARIANTS]
UNEQUAL = {"densely_gated", "jamba"}  # which cannot have X-MoE's parameters, or are known for more


def part(layer: LayerConfig, kind: type) -> list:
    return [found for found in layer.parts() if isinstance(found, kind)]


def width_of(layer: LayerConfig) -> int:
    (experts,) = part(layer, ExpertsConfig)
    return experts.expert_dim


def step_of(family: Family, layer: LayerConfig, scale: Scale) -> float:
    """FLOPs a token of one step of the width."""
    wide, dim = width_of(layer), scale.model["hidden_size"]
    heads = layer.heads if isinstance(layer, MultiHeadConfig) else 1
    (experts,) = part(layer, ExpertsConfig)
    count = experts.num_experts * (4 if family.name == "hierarchical" else 1)
    sizes = [family.build(dim // heads, count, w).flops_per_token() for w in (wide, wide + scale.multiple_of)]
    return heads * (sizes[1] - sizes[0])


# ---- sizes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES.values(), ids=lambda scale: scale.name)
@pytest.mark.parametrize("family", EVERY, ids=lambda family: family.name)
def test_alone_and_with_heads_a_system_costs_what_x_moe_costs(family: Family, scale: Scale) -> None:
    target = reference(scale, 8, TOP_K)
    for layer in (alone(family, scale), with_heads(family, scale, 2), with_heads(family, scale, 4)):
        assert abs(layer.flops_per_token() - target.flops_per_token()) <= 0.5 * step_of(family, layer, scale)
        assert width_of(layer) % scale.multiple_of == 0


@pytest.mark.parametrize("family", EVERY, ids=lambda family: family.name)
def test_parameters_are_x_moes_where_the_system_allows(family: Family) -> None:
    target = reference(CPU, 8, TOP_K).parameters()
    ratios = [
        layer.parameters() / target
        for layer in (alone(family, CPU), with_heads(family, CPU, 2), with_heads(family, CPU, 4))
    ]
    unequal = [abs(ratio - 1) > 0.1 for ratio in ratios]
    assert unequal == {"densely_gated": [True] * 3, "jamba": [True, False, False]}.get(family.name, [False] * 3)


def test_every_baseline_stands_on_the_page() -> None:
    files = {path.stem for path in (Path(__file__).parents[2] / "baselines").glob("*.py")}
    names = {re.sub(r"(_8)?_tuned$", "", each.name) for each in SYSTEMS.all_systems()}
    assert files - {"__init__", "counting"} <= names
    assert "mhmoe_8_compute" in names and not UNEQUAL - names


def test_jamba_alone_has_a_placement_of_its_own() -> None:
    config = model_config(CPU, with_settings(system(JAMBA), points(32)[0], "j", "j"))
    assert [config.is_moe_block(block) for block in range(4)] == [False, True, False, True]
    built = at_best("xmoe_{}", "x", "x", lambda point: system(JAMBA))
    assert built.name == "x_tuned"
    assert dict(JAMBA.model) == {"moe_every": 2, "moe_offset": 1}


# ---- settings -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", EVERY, ids=lambda family: family.name)
def test_every_point_of_the_search_gives_a_model_of_every_system(family: Family) -> None:
    for point in points(32):
        for layer in (alone(family, SMOKE), with_heads(family, SMOKE, point.parts)):
            built = point.settings.layer(layer, gates_itself=family.gates_itself)
            assert built.parameters() > 0 and built.flops_per_token() > 0


@pytest.mark.parametrize("number", [0, 5, 9])
@pytest.mark.parametrize("family", EVERY, ids=lambda family: family.name)
def test_a_layer_as_it_is_set_gives_gradients_to_all_of_it(family: Family, number: int) -> None:
    point = points(32)[number]
    for config in (alone(family, SMOKE), with_heads(family, SMOKE, point.parts)):
        torch.manual_seed(0)
        layer = point.settings.layer(config, gates_itself=family.gates_itself).build().train()
        x = torch.randn(4, 32, SMOKE.model["hidden_size"])
        output = layer(x)
        (output.hidden.square().mean() + (output.balance_loss if output.balance_loss is not None else 0)).backward()
        lacking = [name for name, p in layer.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert output.hidden.shape == x.shape and lacking == []


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_settings_leave_the_gate_of_a_system_alone(family: Family) -> None:
    layer = alone(family, CPU)
    for settings in (Settings(gate="sigmoid"), Settings(gate="renormalized", norm="experts")):
        built = settings.layer(layer, gates_itself=True)
        assert part(built, RouterConfig) == part(layer, RouterConfig)
        assert part(built, NormedConfig) if settings.norm == "experts" else built == layer


def test_settings_reach_the_networks_of_every_system() -> None:
    for family in EVERY:
        built = Settings(inner_norm=True, output_gain=0.5).layer(alone(family, CPU), gates_itself=True)
        for network in part(built, ExpertsConfig):
            assert (network.inner_norm, network.output_gain) == (True, 0.5), family.name


def test_the_norm_of_kimi_k3_is_not_given_to_the_latent_mixture_without_it() -> None:
    plain, normed = (alone(family, CPU) for family in FAMILIES if family.name.startswith("latentmoe"))
    assert normed == alone(LATENTMOE_K3, CPU) and part(normed, NormedConfig) and not part(plain, NormedConfig)
    built = Settings(norm="experts").layer(plain, gates_itself=True)
    assert isinstance(built, NormedConfig) and built.inner == plain


# ---- pages ----------------------------------------------------------------------------------


def test_without_the_search_the_pages_say_what_they_wait_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "RESULTS", tmp_path)
    for page in (SYSTEMS, COMBINATIONS):
        runs = page.runs(CPU, CPU.seeds, Records(CPU, tmp_path))
        assert {run.waits_for for run in runs} == {"tuning"}
        assert page.section(CPU, Records(CPU, tmp_path), tmp_path) is None


def test_other_systems_take_three_seeds_at_most() -> None:
    shared = {each.name for each in (tuned("null"), tuned("dense"), tuned("xmoe_{}"), tuned("fine_{}"))}
    shared.add(tuned("mhmoe_{}_compute").name)
    for page in (SYSTEMS, COMBINATIONS):
        assert {each.seeds for each in page.all_systems() if each.name not in shared} == {3}


def test_every_method_stands_alone_and_with_heads_and_is_claimed_about() -> None:
    claimed = {(claim.better, claim.worse) for claim in COMBINATIONS.claims if isinstance(claim, Claim)}
    pairs = {(headed.name, single.name) for single, headed in PAIRS.values()}
    assert len(pairs) == len(PAIRS) == 1 + len(FAMILIES) - 1 + len(VARIANTS)
    assert pairs - claimed == {("mhmoe_8_compute_tuned", "xmoe_8_tuned")}  # Table 1's claim
    assert {claim.arm for claim in COMBINATIONS.claims} == {"tuned"}
