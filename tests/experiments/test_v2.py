"""v2's systems are those that it prints at the paper scale, and of one size everywhere; its tables vary one thing."""

from dataclasses import replace
from pathlib import Path

import pytest

from analysis.claims.measured import MeasuredClaim
from experiments.kinds.texts import TextsTable
from experiments.paper import paper_numbers
from experiments.runner import store
from experiments.runner.runs import model_config
from experiments.runner.store import Records
from experiments.scales import CPU, PAPER, SCALES, Scale
from experiments.settings import points, with_settings
from experiments.testbed_bitnet import PAGE as BITNET_TESTBED
from experiments.tuning import PAGE as TUNING
from experiments.v2 import (
    AS_PRINTED,
    DENSE,
    FINE,
    MHMOE,
    MODELS,
    SMOE,
    in_bitnet,
    network,
    smoe,
    with_layers,
    with_shared,
)
from experiments.v2_table1_perplexity import PAGE as TABLE1
from experiments.v2_table2_shared_expert import PAGE as TABLE2
from experiments.v2_table3_bitnet import PAGE as TABLE3
from experiments.v2_table4_head_merge_layers import PAGE as TABLE4
from experiments.v2_table5_head_or_merge import PAGE as TABLE5
from mhmoe.layers.config import Config, LayerConfig, config_from_dict
from mhmoe.layers.experts import ExpertsConfig, FeedForwardConfig
from mhmoe.layers.multi_head import MultiHeadConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig

TABLES = (TABLE1, TABLE2, TABLE3, TABLE4, TABLE5)
EVERY_SCALE = pytest.mark.parametrize("scale", SCALES.values(), ids=lambda scale: scale.name)


def mixture(layer: LayerConfig) -> SparseMoEConfig:
    (found,) = [part for part in layer.parts() if isinstance(part, SparseMoEConfig)]
    return found


def sizes(layer: LayerConfig) -> tuple[int, int, int]:
    """Inner width, experts, k."""
    found = mixture(layer)
    return found.experts.expert_dim, found.experts.num_experts, found.router.top_k


# ---- sizes ----------------------------------------------------------------------------------


def test_at_the_paper_scale_every_model_is_the_one_that_is_printed() -> None:
    assert network(PAPER).inner_dim == 2048
    assert sizes(SMOE.layer(PAPER, 1)) == (2048, 8, 1)
    assert sizes(FINE.layer(PAPER, 1)) == (1024, 16, 2)
    assert sizes(AS_PRINTED[2].layer(PAPER, 1)) == (768, 40, 2)
    assert sizes(AS_PRINTED[3].layer(PAPER, 1)) == (512, 96, 3)
    layer = AS_PRINTED[3].layer(PAPER, 1)
    assert isinstance(layer, MultiHeadConfig) and layer.heads == 3
    assert DENSE.layer(PAPER, 1) == network(PAPER)


def test_the_solved_sizes_stand_beside_the_printed_ones() -> None:
    assert sizes(MHMOE[2].layer(PAPER, 1))[:2] == (768, 41) and sizes(MHMOE[3].layer(PAPER, 1))[:2] == (512, 93)
    shown = [row.system.name for row in TABLE1.rows_at(PAPER)]
    assert shown[3:] == ["v2_mhmoe_h2_printed", "v2_mhmoe_h3_printed", "v2_mhmoe_h2", "v2_mhmoe_h3"]


@EVERY_SCALE
@pytest.mark.parametrize("top_k", [1, 2])
def test_all_models_have_the_flops_and_all_mixtures_the_parameters_of_smoe(scale: Scale, top_k: int) -> None:
    """Routers aside, which v2's equations leave out; MH-MoE within a step of its width and an expert."""
    whole = smoe(scale, top_k)
    flops = top_k * whole.experts.flops_per_token()
    assert DENSE.layer(scale, top_k).flops_per_token() == flops
    for model in (FINE, *MHMOE.values()):
        layer = model.layer(scale, top_k)
        found = mixture(layer)
        heads = layer.heads if isinstance(layer, MultiHeadConfig) else 1
        ours = layer.flops_per_token() - heads * found.router.flops_per_token()
        step = heads * found.router.top_k * 6 * found.dim * scale.multiple_of
        assert abs(ours - flops) <= (0.5 * step if heads > 1 else 0), model.name
        expert = found.experts.network_parameters() if heads > 1 else 0
        routers = found.router.parameters() + whole.router.parameters()
        assert abs(layer.parameters() - whole.parameters()) <= 0.6 * expert + routers, model.name


# ---- what the tables vary --------------------------------------------------------------------


def test_a_shared_expert_has_the_same_flops_beside_every_mixture() -> None:
    for model in (SMOE, FINE, *MHMOE.values()):
        plain, shared = (m.layer(PAPER, 1) for m in (model, with_shared(model)))
        assert shared.flops_per_token() - plain.flops_per_token() == network(PAPER).flops_per_token()
        beside = mixture(shared).shared
        assert beside is not None and beside.inner_dim == 2048


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_in_bitnet_every_projection_is_ternary_and_nothing_else_changes(model) -> None:
    plain, ternary = (model_config(CPU, m.published) for m in (model, in_bitnet(model)))
    assert (plain.attention_precision, ternary.attention_precision) == ("full", "bitnet")
    for block in range(CPU.model["num_hidden_layers"]):
        found = [vars(part) for part in ternary.layer(block).parts() if hasattr(part, "precision")]
        assert found and {fields["precision"] for fields in found} == {"bitnet"}
    assert plain.parameters() == ternary.parameters() and plain.flops_per_token() == ternary.flops_per_token()


def test_settings_keep_ternary_weights_and_the_networks_of_the_other_blocks() -> None:
    for point in points(32)[:8]:
        chosen = with_settings(in_bitnet(MHMOE[2]).system(2), point, "x", "x")
        config = model_config(CPU, chosen)
        networks: list[Config] = [part for block in (0, 1) for part in config.layer(block).parts()]
        found = [p for p in networks if isinstance(p, FeedForwardConfig | ExpertsConfig)]
        assert len(found) == 2 and {(p.precision, p.activation) for p in found} == {("bitnet", "swiglu")}
        assert config.attention_precision == "bitnet"
        assert config_from_dict(config.layer(1).to_dict()) == config.layer(1)


def test_head_and_merge_layers_come_on_top_and_are_left_out_one_by_one() -> None:
    around = with_layers(SMOE).layer(PAPER, 1)
    assert around.parameters() - SMOE.layer(PAPER, 1).parameters() == 2 * (768**2 + 768)
    *_, both = (row.system for row in TABLE5.as_printed)
    whole = both.layer(PAPER)
    assert whole is not None
    left = [whole.parameters() - row.system.layer(PAPER).parameters() for row in TABLE5.as_printed]  # pyright: ignore
    assert [parameters / (768**2 + 768) for parameters in left] == [2, 1, 1, 0]


def test_table_4_puts_the_layers_on_top_and_the_narrower_mhmoe_beside() -> None:
    *_, bare, on_top, narrower = (row.system.layer(PAPER) for row in TABLE4.as_printed)
    assert bare is not None and on_top is not None and narrower is not None
    assert (sizes(bare)[0], sizes(narrower)[0]) == (1024, 768)  # the experts pay for the layers in the latter alone
    assert mixture(on_top) == mixture(bare)
    assert on_top.parameters() - bare.parameters() == 2 * (768**2 + 768)
    assert on_top.flops_per_token() - bare.flops_per_token() == 4 * 768**2
    assert printed_beside(TABLE4, "v2_mhmoe_h2_n0_on_top_tuned", "books") == (11.71, 11.46)
    assert printed_beside(TABLE4, "v2_mhmoe_h2_tuned", "books") == (11.71, 11.60)


# ---- pages ----------------------------------------------------------------------------------


@EVERY_SCALE
@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.slug)
def test_every_system_of_every_table_can_be_configured_and_is_claimed_about(table: TextsTable, scale: Scale) -> None:
    for system in table.systems_at(scale):
        assert model_config(scale, system).parameters() > 0
    claims = table.claims_at(scale)
    printed = scale.name == "paper"
    assert {claim.arm for claim in claims} <= ({"published"} if printed else {"tuned", "bitnet"})
    assert bool(claims) == (not printed or table is not TABLE3)  # whose testbed has no arm as published


def printed_beside(table: TextsTable, better: str, text: str) -> tuple[float, float] | None:
    """Of the first claim that a system is better than another on a text."""
    claims = [claim for claim in table.claims if isinstance(claim, MeasuredClaim) and claim.lower.system == better]
    return next(claim.paper for claim in claims if claim.statement.startswith(text))


def test_the_numbers_beside_ours_are_those_of_their_row_and_text() -> None:
    printed = paper_numbers()["v2_table1_no_shared_expert"]["100000"]
    assert printed["mhmoe_h3"] == [10.51, 9.18, 13.63]
    assert printed_beside(TABLE1, "v2_mhmoe_h3_tuned", "web") == (13.80, 13.63)
    assert printed_beside(TABLE5, "v2_mhmoe_h2_tuned", "books") == (11.74, 11.60)


def test_at_the_paper_scale_nothing_waits_for_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "RESULTS", tmp_path)  # where no search was run
    for table in TABLES:
        runs = table.runs(PAPER, PAPER.seeds, Records(PAPER, tmp_path))
        assert runs and not any(run.waits_for for run in runs)
        assert {run.waits_for for run in table.runs(CPU, CPU.seeds, Records(CPU, tmp_path))} == {TUNING.slug}


def test_the_claims_of_table_3_rest_on_a_testbed_in_bitnet() -> None:
    controls = BITNET_TESTBED.controls()
    effect = controls.effects["bitnet", "mixture"]
    assert (effect.better, effect.worse) == ("v2_smoe_bitnet_tuned", "v2_dense_bitnet_tuned")
    assert controls.nulls == {"bitnet": "v2_null_bitnet_tuned"}
    assert {claim.arm for claim in TABLE3.claims} == {"bitnet"}
    for system in BITNET_TESTBED.all_systems():
        assert model_config(CPU, replace(system, learning_rate=0.01)).parameters() > 0
