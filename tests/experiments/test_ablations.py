"""The ablations: what their systems are, and what their pages say."""

import pytest

from analysis.claims.rules import Claim
from baselines.dense import dense as dense_config
from experiments.changed_systems import ablate, dense_with_layers_within, with_layers
from experiments.kinds.sensitivity import Sensitivity, Variation
from experiments.layers import dense_layer, reference
from experiments.paper import paper_number, paper_numbers
from experiments.report.render import render
from experiments.runner.runs import model_config, training_config
from experiments.runner.store import Records
from experiments.scales import CPU, SCALES, SMOKE, Scale
from experiments.sensitivity import PAGE as SENSITIVITY
from experiments.system import System
from experiments.systems import dense, mhmoe, xmoe
from experiments.table5_head_number import PAGE as TABLE5
from experiments.table5_head_number import rows
from experiments.table6_components import PAGE as TABLE6
from experiments.table7_mlp_layers import PAGE as TABLE7
from experiments.testbed import TUNED
from experiments.why import PAGE as WHY
from mhmoe.layers.multi_head import MultiHeadConfig
from mhmoe.layers.routers import ReleasedRouterConfig
from mhmoe.layers.sparse_moe import ResidualConfig, SparseMoEConfig
from tests.forged import forged, save
from tests.mini import MINI, at_rate

FIXED = at_rate(MINI, 0.01)


def heads_of(system: System) -> MultiHeadConfig:
    layer = system.layer(CPU)
    assert isinstance(layer, MultiHeadConfig)
    return layer


def moe_of(layer: object) -> SparseMoEConfig:
    inner = layer.inner if isinstance(layer, MultiHeadConfig) else layer
    assert isinstance(inner, SparseMoEConfig)
    return inner


# ---- systems --------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES.values(), ids=lambda scale: scale.name)
def test_every_ablation_can_be_configured_at_every_scale(scale: Scale) -> None:
    for experiment in (TABLE5, TABLE6, TABLE7, SENSITIVITY):
        for system in experiment.all_systems():
            assert model_config(scale, system).parameters() > 0


@pytest.mark.parametrize("scale", [CPU, SCALES["gpu"]], ids=lambda scale: scale.name)
def test_every_mh_moe_of_the_tables_has_x_moes_parameters_whatever_is_left_out_of_it(scale: Scale) -> None:
    base = reference(scale, 8)
    for experiment in (TABLE5, TABLE6, TABLE7):
        for system in experiment.all_systems():
            if system.name.startswith("mhmoe"):
                layer = system.layer(scale)
                assert layer is not None
                # What is solved is a whole number: of experts under `compute`, else of a multiple of 8 inner units.
                unit = 8 * base.experts.num_experts * 2 * moe_of(layer).dim
                unit = moe_of(layer).experts.network_parameters() if "compute" in system.name else unit
                assert abs(layer.parameters() - base.parameters()) <= 0.6 * unit, system.name


def test_each_number_of_heads_stands_under_both_readings_and_beside_its_control() -> None:
    names = [row.system.name for row in rows((1, 2, 12)) if not row.system.settled_by]
    assert names == [
        *("xmoe_8", "mhmoe_8_parameters_h1", "mhmoe_8_parameters_h2", "mhmoe_8_parameters_h12"),
        *("mhmoe_8_compute_h1", "mhmoe_8_compute_h2", "mhmoe_8_compute_h12"),
        "xmoe_8_k2",  # one head makes no more selections than X-MoE, and twelve of eight cannot be chosen
    ]
    control, heads = moe_of(xmoe(8, top_k=2).layer(CPU)), heads_of(mhmoe(8, "parameters", 2))
    selections = heads.heads * moe_of(heads).router.top_k
    assert selections == control.router.top_k == 2


def test_mlp_layers_go_around_what_stands_there_and_split_nothing() -> None:
    around_moe, around_dense = (with_layers(system).layer(CPU) for system in (xmoe(8), dense()))
    assert around_moe == MultiHeadConfig(dim=96, heads=1, inner=reference(CPU, 8))
    assert around_dense == MultiHeadConfig(dim=96, heads=1, inner=dense_config(96))
    bare = heads_of(mhmoe(8, "parameters", layers=0))
    assert bare.parameters() == bare.inner.parameters()


@pytest.mark.parametrize("scale", SCALES.values(), ids=lambda scale: scale.name)
def test_table_6_adds_layers_at_equal_parameters_and_v1s_numbers_stand_there(scale: Scale) -> None:
    printed = paper_numbers()["v1_table6_components"]["rows"]
    rows = [row for row in TABLE6.rows if row.paper]
    assert [paper_number(row.paper) for row in rows] == [16.23, 16.40, 14.82, 14.77, 13.97, 12.72]
    assert printed[3]["perplexity"] == printed[4]["perplexity"] == 14.77  # one model at equal parameters, and one row
    plain, within, base, unsplit, *_ = (row.system.layer(scale) or dense_layer(scale) for row in rows)
    assert 0 <= within.parameters() - plain.parameters() <= 2 * scale.model["hidden_size"]
    assert isinstance(unsplit, MultiHeadConfig) and unsplit.heads == 1
    unit = 16 * 8 * 2 * scale.model["hidden_size"]  # the width is a multiple of 16 at most
    assert abs(unsplit.parameters() - base.parameters()) <= unit / 2


def test_layers_on_top_are_further_rows_of_table_6_without_a_printed_number() -> None:
    printed = {row.system.name: bool(row.paper) for row in TABLE6.rows}
    assert printed["dense_mlp_within"] and printed["mhmoe_8_parameters_h1"]
    assert not printed["dense_mlp"] and not printed["xmoe_8_mlp"]
    assert dense_with_layers_within().label == "Dense, with MLP layers, equal parameters"


def test_table_6_claims_what_is_printed_for_the_size_that_it_is_printed_for() -> None:
    said = {claim.statement: (claim.source, claim.paper) for claim in TABLE6.claims}
    assert not any("X-MoE's perplexity" in statement for statement in said)  # v1: the layers do not enhance it
    assert said["MLP layers help MH-MoE (`parameters`)"] == ("v1 Table 6", (12.72, 13.97))
    for tuned in ("", "Tuned: "):
        assert said[f"{tuned}MLP layers help MH-MoE (`compute`)"] == ("v2 Tables 1 and 4", (11.60, 11.71))
    assert said["Splitting alone lies below X-MoE (`compute`)"] == ("v2 Table 4", (11.71, 11.87))
    assert said["Splitting helps MH-MoE (`compute`)"] == ("v1 Table 6, at v2's sizes", None)


def test_a_varied_system_differs_in_that_alone_and_takes_the_rate_of_the_unchanged_one(tmp_path) -> None:
    base = mhmoe(8, "compute")
    changed = ablate(base, "r", "r", moe=lambda moe: ResidualConfig(inner=moe))
    assert heads_of(changed) == heads_of(base).replace(inner=ResidualConfig(inner=heads_of(base).inner))
    weight = model_config(CPU, ablate(base, "b", "b", model={"balance_weight": 0.5}))
    plain = model_config(CPU, base)
    plain.balance_weight = 0.5
    assert weight.to_dict() == plain.to_dict()
    records = Records(FIXED, tmp_path)
    assert records.chosen_learning_rate("english", ablate(base, "h", "h", lr_multiplier=0.5)) == 0.005
    tuned = Records(MINI, tmp_path)
    assert tuned.chosen_learning_rate("english", changed) is None  # the unchanged system's grid is not done
    runs = SENSITIVITY.runs(MINI, (1, 2), tuned)
    assert len({run.name for run in runs}) == len(runs)
    assert {run.seed for run in runs if run.tests} == {1}


def test_what_else_is_set_of_a_system_stays_where_one_thing_changes() -> None:
    wide = xmoe(8, width=192)
    assert model_config(CPU, with_layers(wide)).hidden_size == 192
    assert with_layers(wide).layer(wide.at(CPU)) == MultiHeadConfig(dim=192, heads=1, inner=reference(wide.at(CPU), 8))
    for step in ("MH-MoE as published: h = 4, k = 1", "a norm behind every feed-forward layer"):
        system = WHY.steps[step]
        for changed in (with_layers(system), ablate(system, "b", "b", model={"balance_weight": 0.5})):
            assert model_config(CPU, changed).layer(0) == model_config(CPU, system).layer(0)
            assert (changed.training, changed.role, changed.matching) == (system.training, "", "")


def test_a_system_that_a_search_settles_cannot_be_changed_behind_it() -> None:
    for change in (with_layers, lambda system: ablate(system, "b", "b", model={"balance_weight": 0.5})):
        with pytest.raises(ValueError, match=r"xmoe_8_tuned is settled by a search \(tuning\)"):
            change(TUNED.few)


def test_the_variations_are_the_ones_they_are_called(tmp_path) -> None:
    of = {variation.label: variation.systems for variation in SENSITIVITY.variations}
    for system in of["router of the released code"]:
        assert system is not None and isinstance(moe_of(system.layer(SMOKE)).router, ReleasedRouterConfig)
    assert {moe_of(s.layer(SMOKE)).capacity_factor for s in of["capacity 1.0 in training alone"] if s} == {1.0}
    assert [moe_of(s.layer(SMOKE)).router.top_k for s in of["k = 2"] if s] == [2, 2, 2]
    assert of["residual inside (Eq. 6)"][0] is None
    for width in (48, 192):
        assert {model_config(CPU, s).hidden_size for s in of[f"width {width}"] if s} == {width}
    down = next(s for s in of["rates of the down matrices by width"] if s)
    (run,) = [r for r in SENSITIVITY.runs(FIXED, (1,), Records(FIXED, tmp_path)) if r.system == down]
    assert training_config(run).mup_scaled == ("down_proj",)


def test_table_7_claims_that_a_layer_helps_and_nothing_of_further_ones() -> None:
    compared = {(claim.better, claim.worse) for claim in TABLE7.claims if isinstance(claim, Claim)}
    sizes = "mhmoe_8_parameters", "mhmoe_8_parameters_n0"
    assert compared == {sizes, (f"{sizes[0]}_tuned", f"{sizes[1]}_tuned")}


# ---- pages ----------------------------------------------------------------------------------


def test_the_sensitivity_page_compares_the_systems_within_each_variation(tmp_path) -> None:
    systems = {"X-MoE": xmoe(8), "MH-MoE": mhmoe(8, "compute")}
    double = [ablate(s, "double", "twice the rate", lr_multiplier=2.0) for s in systems.values()]
    experiment = Sensitivity(
        slug="sensitivity",
        title="Sensitivity",
        systems=systems,
        variations=(
            Variation(label="twice the rate", systems=double),
            Variation(
                label="heads alone", systems=[None, ablate(systems["MH-MoE"], "half", "half", lr_multiplier=0.5)]
            ),
        ),
    )
    losses = {"xmoe_8": 4.5, "mhmoe_8_compute": 4.6, "xmoe_8_double": 4.7, "mhmoe_8_compute_double": 4.4}
    for run in experiment.runs(FIXED, (1,), Records(FIXED, tmp_path)):
        if run.system.name in losses:
            save(forged(run, losses[run.system.name]), tmp_path)
    files = render(experiment, (FIXED,), tmp_path, tmp_path)
    page = files[tmp_path / "sensitivity.md"]
    cells = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in page.splitlines()
        if line.startswith("| ")
    }
    unchanged, doubled, alone = (cells[label] for label in ("as elsewhere", "twice the rate", "heads alone"))
    assert float(unchanged[0]) < float(unchanged[1]) and unchanged[2].startswith("+")
    assert float(doubled[0]) > float(doubled[1]) and doubled[2].startswith("-")
    assert alone == [unchanged[0], "not run", "-"]
