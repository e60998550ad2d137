"""What is declared can be built, what is planned is what is missing, a record of anything else is stale."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from analysis.claims.rules import Claim
from baselines.xmoe import xmoe as xmoe_config
from experiments.catalog import check_task, find, pages
from experiments.figure4_training_curves import PAGE as FIGURE4
from experiments.kinds.printed_sizes import PrintedSizes
from experiments.kinds.search import Search
from experiments.kinds.sizes import Sizes
from experiments.learning_rates import PAGE as LEARNING_RATES
from experiments.paper import paper_numbers
from experiments.runner.launch import Options, planned_runs
from experiments.runner.plan import final_plan
from experiments.runner.processes import try_lock
from experiments.runner.runs import Run, model_config, training_config, tuning_runs
from experiments.runner.store import Records
from experiments.runner.texts import load_dataset
from experiments.scales import CPU, PAPER, SCALES, SMOKE, Scale
from experiments.system import System
from experiments.systems import dense, mhmoe, xmoe
from experiments.table1_perplexity import PAGE as TABLE1
from experiments.table5_head_number import FOUND
from experiments.tuning import PAGE as TUNING
from experiments.why import PAGE as WHY
from mhmoe.data.corpora import LocalCorpus
from mhmoe.data.embedded import EmbeddedCorpus
from mhmoe.data.packing import PackingConfig, pack
from mhmoe.io import UserError
from mhmoe.layers.config import Config
from mhmoe.layers.multi_head import MultiHeadConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig
from tests.forged import forged, save, worsened
from tests.mini import MINI, at_rate
from tests.tiny import ZipfText

ALL = pages()
TUNED = dataclasses.replace(MINI, learning_rates=(0.01, 0.02, 0.04), seeds=(1, 2, 3, 4, 5))
FIXED = at_rate(MINI, 0.01)
WHY_STEPS = {system.name: system for system in WHY.all_systems()}
OWN = [system for system in TABLE1.all_systems() if not system.settled_by]


def final(scale: Scale, system: System, results: Path) -> Run:
    """The first final run of a system as Table 1 plans it."""
    runs = TABLE1.runs(scale, scale.seeds, Records(scale, results))
    return next(run for run in runs if run.system.name == system.name and run.tests)


# ---- declarations ---------------------------------------------------------------------------


def test_every_experiment_is_named_as_its_file():
    folder = Path(__file__).parents[2] / "experiments"
    declaring = {path.stem for path in folder.glob("*.py") if "\nPAGE = " in path.read_text()}
    assert set(ALL) == declaring >= {"table1_perplexity", "figure4_training_curves", "learning_rates"}
    assert all(page.slug == slug for slug, page in ALL.items())


def test_an_experiment_is_found_by_the_unique_beginning_of_its_name():
    assert find("table1") is TABLE1
    assert find("figure4_training_curves") is FIGURE4
    assert find("learn") is LEARNING_RATES
    assert [find("testbed", task).slug for task in ("", "multilingual")] == ["testbed", "testbed_multilingual"]
    assert [slug for slug, page in ALL.items() if find(slug, page.task) is not page] == []  # testbed, testbed_bitnet


@pytest.mark.parametrize("name", ["table", "table99", "", "perplexity", "table1_perplexity_"])
def test_what_is_no_name_of_an_experiment_is_refused_in_one_line(name, monkeypatch):
    several = dict.fromkeys(["table1_perplexity", "table11_parameters"], SimpleNamespace(PAGE=TABLE1))
    monkeypatch.setattr("experiments.catalog._modules", lambda: several)
    assert find("table1") is TABLE1  # not table11
    with pytest.raises(UserError, match=r"choose one of .*table11_parameters") as refused:
        find(name)
    assert "\n" not in str(refused.value)


def test_a_name_is_one_system_everywhere():
    found: dict[str, System] = {}
    trained: dict[str, System] = {}
    for experiment in ALL.values():
        systems = experiment.all_systems()
        assert len({s.label for s in systems}) == len({s.name for s in systems}) == len(systems)
        for system in systems:
            other = found.setdefault(system.name, system)
            assert other.label == system.label
            if not isinstance(experiment, Sizes | PrintedSizes):  # which train nothing
                assert trained.setdefault(system.name, system).tuned_as == system.tuned_as
            for scale in () if other is system else (SMOKE, CPU):
                assert model_config(scale, other).to_dict() == model_config(scale, system).to_dict()


def test_figure_4_shows_systems_of_table_1_and_trains_nothing_of_its_own():
    assert set(FIGURE4.all_systems()) <= set(TABLE1.all_systems())  # `seeds` included
    for scale in SCALES.values():
        of_figure, of_table = (e.runs(scale, scale.seeds, Records(scale, Path("none"))) for e in (FIGURE4, TABLE1))
        assert {run.name for run in of_figure} <= {run.name for run in of_table}


def test_with_a_system_that_is_named_go_the_runs_that_choose_its_learning_rate():
    records = Records(TUNED, Path("none"))
    options = Options(seeds=(1,), systems=("dense_x4",), results=records.results)
    names = [run.name for run in planned_runs(find("regime"), TUNED, options, records)]
    assert names == [*(f"english-dense-lr{rate:g}-seed1000" for rate in (0.01, 0.02, 0.04)), "english-dense_x4-seed1"]


def test_every_system_of_a_table_or_figure_has_its_learning_rates_in_the_grid_of_the_sweep():
    other = ((ALL[f"learning_rates_{task}"], ALL[f"table1_{task}"]) for task in ("multilingual", "multimodal"))
    for sweep, table in ((LEARNING_RATES, TABLE1), *other):
        swept = {system.name for system in sweep.all_systems()}  # those that a search settles, where it settles no rate
        unsettled = {system.name for system in sweep.all_systems() if not system.settled_by}
        assert {system.name for system in table.all_systems() if not system.settled_by} == unsettled
        planned = sweep.runs(CPU, CPU.seeds, Records(CPU, Path("none")))
        grid = {(run.system.name, run.learning_rate) for run in planned}
        assert grid == {(name, rate) for name in swept for rate in CPU.learning_rates}
        assert {run.task for run in planned} == {table.task} and not any(run.tests for run in planned)


def test_every_claim_compares_two_systems_of_its_own_experiment():
    claims = [(e, claim) for e in ALL.values() for claim in getattr(e, "claims", ())]
    assert {e.slug for e, _ in claims} == {
        *("table1_perplexity", "table1_multilingual", "table1_multimodal", "table4_visual_questions"),
        *("figure4_training_curves", "figure4_multilingual", "figure4_multimodal", "figure8_image_patches"),
        *("table5_head_number", "table6_components", "table7_mlp_layers"),
        *("table2_english_zero_shot", "table3_xnli_zero_shot", "figure1_expert_activation"),
        *("figure5_expert_activation", "figure6_scaling_experts", "figure7_polysemous_words"),
        *("figure7_known_senses", "figure9_scaling_curves"),
        *("compare_systems", "compare_combinations", "v2_table1_perplexity", "v2_table2_shared_expert"),
        *("v2_table3_bitnet", "v2_table4_head_merge_layers", "v2_table5_head_or_merge"),
    }
    for experiment, claim in claims:
        lower = isinstance(claim, Claim)
        assert claim.slug == experiment.slug and claim.task == experiment.task
        assert claim.systems <= {system.name for system in experiment.all_systems()}
        if not lower:
            assert claim.measurement in {measurement.name for measurement in experiment.measurements}
        if claim.paper is not None:  # the paper's favourite has the lower perplexity, or the higher score
            assert claim.paper[0] < claim.paper[1] if lower else claim.paper[0] > claim.paper[1]
        if claim.matching:
            sides = [system for system in experiment.all_systems() if system.name in claim.systems]
            assert any(f"_{claim.matching}" in side.name or claim.matching == side.matching for side in sides)
    assert len({(claim.slug, claim.statement) for _, claim in claims}) == len(claims)


def test_rows_print_the_numbers_of_their_own_system():
    printed = paper_numbers()["v1_table1_perplexity"]["english"]
    values = {row.system.name: row.paper for row in TABLE1.rows if row.paper}
    assert set(values) == {"dense", "xmoe_8", "mhmoe_8_parameters", "xmoe_32", "mhmoe_32_parameters"}
    for name, path in values.items():
        kind, *experts = name.removesuffix("_parameters").split("_")
        value: Any = paper_numbers()
        for key in path:
            value = value[key]
        assert value == (printed[kind][experts[0]] if experts else printed[kind])


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_every_system_can_be_configured_at_every_scale(scale):
    pages = [page for page in ALL.values() if not isinstance(page, Sizes) or scale.name in page.at]
    pages = [page for page in pages if not isinstance(page, Search) or not scale.settled_at]
    for system in {system.name: system for page in pages for system in page.all_systems()}.values():
        model = model_config(scale, system)
        assert 0 < model.active_parameters() <= model.parameters() and model.flops_per_token() > 0
        assert model.hidden_size == (system.at(scale).model["hidden_size"])
        for rate in scale.learning_rates:
            run = Run(
                name="", scale=scale, task="english", system=system, seed=1, learning_rate=rate,
                steps_share=scale.tuning_share,
            )  # fmt: skip
            assert training_config(run).learning_rate == rate
    assert scale.packing.vocab_size == scale.model["vocab_size"]
    assert scale.training["length"] <= scale.model["max_position_embeddings"]
    assert not set(scale.tuning_seeds) & set(scale.seeds) and len(set(scale.seeds)) == len(scale.seeds)


def test_every_system_as_the_committed_searches_settle_it_can_be_configured():
    records = Records(CPU)
    runs = [run for page in ALL.values() if page.is_for(CPU) for run in page.runs(CPU, (1,), records)]
    settled = {run.name: run for run in runs if not run.waits_for}
    assert sum("_tuned-" in name for name in settled) > 100
    for run in settled.values():
        assert model_config(run.scale, run.system).parameters() > 0


@pytest.mark.parametrize("scale", [SMOKE, CPU, SCALES["gpu"]], ids=lambda scale: scale.name)
@pytest.mark.parametrize("experts", [8, 32])
def test_the_readings_of_equal_size_and_the_control_are_of_the_size_of_x_moe(scale, experts):
    def counted(system: System) -> tuple[int, int]:
        layer = system.layer(scale)
        assert layer is not None
        return layer.parameters(), layer.flops_per_token()

    parameters, flops = counted(xmoe(experts))
    control = counted(xmoe(experts, top_k=4))
    by_width, by_both = counted(mhmoe(experts, "parameters")), counted(mhmoe(experts, "compute"))
    assert control[0] == parameters
    assert by_width[0] == pytest.approx(parameters, rel=0.02)
    assert by_both[0] == pytest.approx(parameters, rel=0.02)
    assert by_width[1] > 3 * flops and control[1] > 3 * flops  # h = k = 4
    assert by_both[1] < 2 * flops  # the router's share, which v2 leaves out, is large where experts are small


def cells() -> list[Any]:
    """Every cell of v1 Table 11's language tasks: task, kind, experts, printed non-expert, expert, sum."""
    printed = paper_numbers()["v1_table11_parameters_millions"]
    return [
        (task, kind, int(experts), *numbers)
        for task in ("english", "multilingual")
        for kind in ("xmoe", "mhmoe")
        for experts, numbers in printed[task][kind].items()
    ]


def experts_of(layer: Config | None) -> int:
    inner = layer.inner if isinstance(layer, MultiHeadConfig) else layer
    assert isinstance(inner, SparseMoEConfig)
    return inner.experts.parameters()


@pytest.mark.parametrize(("task", "kind", "experts", "others", "of_experts", "whole"), cells())
def test_at_paper_scale_every_cell_of_table_11_is_met_within_a_million(task, kind, experts, others, of_experts, whole):
    system = xmoe(experts) if kind == "xmoe" else mhmoe(experts, "parameters")
    ours = model_config(PAPER, system).parameters()
    in_experts = PAPER.model["num_hidden_layers"] // 2 * experts_of(system.layer(PAPER))
    for found, cell in ((ours - in_experts, others), (in_experts, of_experts), (ours, whole)):
        assert abs(found - cell * 1e6) < 1e6


def test_at_paper_scale_the_dense_model_and_the_reference_layer_are_those_of_table_11():
    printed = paper_numbers()["v1_table11_parameters_millions"]
    dense_model = model_config(PAPER, dense()).parameters()
    for task in ("english", "multilingual"):
        assert abs(dense_model - printed[task]["dense"] * 1e6) < 1e6
    assert len(cells()) == 16
    assert xmoe(8).layer(PAPER) == xmoe_config(768, 8, bias=True, inner_norm=True)


# ---- plan -----------------------------------------------------------------------------------


def test_learning_rates_come_before_final_runs_and_final_runs_wait_for_their_rate(tmp_path):
    runs = TABLE1.runs(TUNED, TUNED.seeds, Records(TUNED, tmp_path))
    tuning = [run for run in runs if not run.tests]
    assert runs[: len(tuning)] == tuning and len(tuning) == 3 * len(OWN)
    assert {run.seed for run in tuning} == {TUNED.tuning_seeds[0]}
    assert {run.learning_rate for run in runs[len(tuning) :]} == {None}
    with pytest.raises(UserError, match="run learning_rates --scale mini"):
        training_config(next(run for run in runs if run.tests and not run.waits_for))
    with pytest.raises(UserError, match="run tuning` first"):
        training_config(runs[-1])
    assert len({run.name for run in runs}) == len(runs)


def test_final_runs_go_seed_by_seed_and_a_system_may_have_fewer(tmp_path):
    runs = TABLE1.runs(TUNED, TUNED.seeds, Records(TUNED, tmp_path))
    finals = [run for run in runs if run.tests]
    assert [run.seed for run in finals] == sorted(run.seed for run in finals)
    of = {s.name: [run.seed for run in finals if run.system.name == s.name] for s in TABLE1.all_systems()}
    assert of["xmoe_8"] == of["xmoe_32"] == of["mhmoe_8_compute"] == [1, 2, 3, 4, 5]
    assert of["mhmoe_32_compute"] == of["mhmoe_32_parameters"] == [1, 2, 3]
    chosen = TABLE1.runs(TUNED, (7,), Records(TUNED, tmp_path))
    assert {run.seed for run in chosen if run.tests} == {7}
    assert {run.seed for run in chosen if not run.tests} == {TUNED.tuning_seeds[0]}


def test_a_run_whose_test_had_a_part_in_the_choice_is_no_final_run(tmp_path):
    """`why` and the tuned system share that run, which is not one of the final ones, not even if asked for."""
    cpu, long = SCALES["cpu"], SCALES["long"]
    (found,) = (system for system in TABLE1.all_systems() if system.name == "mhmoe_8_compute_tuned")

    def seeds(scale: Scale, task: str, wanted: Sequence[int]) -> list[int]:
        return [run.seed for run in final_plan([found], scale, task, wanted, Records(scale, tmp_path))]

    assert seeds(cpu, "english", cpu.seeds) == [2, 3, 4, 5] and seeds(cpu, "english", (1,)) == []
    assert seeds(cpu, "multilingual", (1, 2)) == [1, 2] and seeds(long, "english", long.seeds) == [1, 2, 3]
    choosing, settled = (system.chosen(Records(cpu)) for system in (WHY_STEPS["why_h2_k4"], found))
    assert choosing is not None and settled is not None
    for part in ("layer", "feed_forward"):
        assert getattr(choosing, part)(cpu) == getattr(settled, part)(cpu)
    assert (choosing.training, choosing.learning_rate) == (settled.training, settled.learning_rate)


def test_the_heads_that_table_5_takes_from_the_search_are_those_that_it_found():
    for base in ("mhmoe_8_compute", "mhmoe_8_parameters"):
        number = TUNING.chosen(CPU, base, Records(CPU))
        assert number is not None and TUNING.point(number).parts == FOUND


@pytest.mark.parametrize(
    ("losses", "chosen"),
    [
        ((5.0, 4.0, 4.5), 0.02),
        ((5.0, 4.5, 4.0), 0.04),
        ((4.008, 4.5, 4.0), 0.01),  # 0.8% more perplexity: as good, and smaller
        ((4.012, 4.008, 4.0), 0.02),
    ],
)
def test_the_rate_is_the_smallest_of_those_with_the_lowest_perplexity_on_valid(losses, chosen, tmp_path):
    grid = list(tuning_runs(TUNED, "english", dense()))
    for run, nll in zip(grid, losses, strict=True):
        assert Records(TUNED, tmp_path).chosen_learning_rate("english", dense()) is None  # until the grid is whole
        save(worsened(forged(run), nll / forged(run).metrics["valid"]["nll_per_token"]), tmp_path)
    records = Records(TUNED, tmp_path)
    assert records.chosen_learning_rate("english", dense()) == chosen
    assert records.chosen_learning_rate("english", xmoe(8)) is None
    assert final(TUNED, dense(), tmp_path).learning_rate == chosen
    assert final(TUNED, xmoe(8), tmp_path).learning_rate is None


def test_a_stale_record_of_the_grid_takes_the_choice_back_and_makes_the_final_runs_stale(tmp_path):
    for run in tuning_runs(TUNED, "english", dense()):
        save(forged(run), tmp_path)
    run = final(TUNED, dense(), tmp_path)
    save(forged(run), tmp_path)
    assert Records(TUNED, tmp_path).state(run) == "done"
    longer = dataclasses.replace(TUNED, training={**TUNED.training, "steps": 4})
    again = final(longer, dense(), tmp_path)
    assert Records(longer, tmp_path).chosen_learning_rate("english", dense()) is None
    assert again.learning_rate is None and Records(longer, tmp_path).state(again) == "stale"


def test_a_scale_with_one_rate_has_nothing_to_tune(tmp_path):
    runs = TABLE1.runs(FIXED, FIXED.seeds, Records(FIXED, tmp_path))
    settled = [run for run in runs if not run.waits_for]
    assert all(run.tests and run.learning_rate == 0.01 for run in settled) and len(settled) == len(OWN)
    assert {run.waits_for for run in runs} == {"", "tuning"}
    assert LEARNING_RATES.runs(FIXED, FIXED.seeds, Records(FIXED, tmp_path)) == []


def test_only_what_has_no_current_record_is_left_to_do(tmp_path):
    runs = TABLE1.runs(FIXED, (1, 2), Records(FIXED, tmp_path))
    for run in runs[:5]:
        save(forged(run), tmp_path)
    left = Records(FIXED, tmp_path).pending_runs(TABLE1.runs(FIXED, (1, 2), Records(FIXED, tmp_path)))
    assert [run.name for run in left] == [run.name for run in runs[5:] if not run.waits_for]
    assert len(left) == 2 * len(OWN) - 5


def test_what_cannot_be_planned_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"task='french' is not that of table1_perplexity; choose english"):
        check_task(TABLE1, "french")
    with pytest.raises(UserError, match="seed 1000 chooses learning rates"):
        TABLE1.runs(TUNED, (1000,), Records(TUNED, tmp_path))


# ---- staleness ------------------------------------------------------------------------------


def changed(**fields: Any) -> Scale:
    """FIXED with other fields; a field that is a mapping is updated."""
    return dataclasses.replace(
        FIXED,
        **{k: {**getattr(FIXED, k), **v} if isinstance(v, dict) else v for k, v in fields.items()},
    )


MATTERS = {
    "steps": changed(training={"steps": 3}),
    "batch": changed(training={"batch_sequences": 2}),
    "precision": changed(training={"precision": "bfloat16"}),
    "learning rate": changed(learning_rates=(0.02,)),
    "width": changed(model={"hidden_size": 32}),
    "blocks": changed(model={"num_hidden_layers": 4}),
    "activation": changed(ffn={**FIXED.ffn, "activation": "swiglu"}),
    "experts' width": changed(multiple_of=16),
    "amount of text": changed(packing=dataclasses.replace(FIXED.packing, max_train_tokens=4000)),
    "order of the text": changed(corpus=lambda: LocalCorpus(order_seed=1)),
    "sets of the text": changed(corpus=lambda: LocalCorpus(sets=("books",))),
    "language": changed(corpus=lambda: LocalCorpus(subfolder="multilingual")),
    "source of the text": changed(corpus=EmbeddedCorpus),
}
DOES_NOT = {
    "nothing": FIXED,
    "purpose": changed(purpose="other words"),
    "device": changed(device="cuda"),
    "seeds": changed(seeds=(1, 2, 3)),
    "place of the text": changed(corpus=lambda: LocalCorpus(path=Path("elsewhere"))),
    "tuning": changed(tuning_share=1 / 3, tuning_seeds=(5, 6)),
}


@pytest.fixture(scope="module")
def current(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results")
    save(forged(final(FIXED, mhmoe(8, "parameters"), results)), results)
    return results


@pytest.mark.parametrize("what", MATTERS)
def test_a_record_is_stale_after_a_change_of(what, current):
    run = final(MATTERS[what], mhmoe(8, "parameters"), current)
    assert Records(MATTERS[what], current).state(run) == "stale"


@pytest.mark.parametrize("what", DOES_NOT)
def test_a_record_stays_current_after_a_change_of(what, current):
    run = final(DOES_NOT[what], mhmoe(8, "parameters"), current)
    assert Records(DOES_NOT[what], current).state(run) == "done"


def test_a_corpus_that_is_named_counts_for_the_records_of_its_own_task(current):
    run = final(FIXED, mhmoe(8, "parameters"), current)
    states = [Records(FIXED, current, {task: {"kind": "another"}}).state(run) for task in ("english", "multilingual")]
    assert states == ["stale", "done"]


def test_a_run_without_a_record_is_missing(current):
    assert Records(FIXED, current).state(final(FIXED, xmoe(8), current)) == "missing"


def test_the_record_of_another_system_or_seed_is_not_taken_for_this_one(current, tmp_path):
    run = final(FIXED, xmoe(8), current)
    other = dataclasses.replace(forged(final(FIXED, xmoe(8, top_k=4), current)), name=run.name, system=run.system.name)
    save(other, tmp_path)
    assert Records(FIXED, tmp_path).state(run) == "stale"
    save(dataclasses.replace(forged(dataclasses.replace(run, seed=2)), name=run.name), tmp_path)
    with pytest.raises(UserError, match="is not that of its task, system and seed"):
        Records(FIXED, tmp_path)
    save(forged(run), tmp_path)
    assert Records(FIXED, tmp_path).state(run) == "done"


def test_a_record_under_another_name_or_scale_is_refused(current, tmp_path):
    record = forged(final(FIXED, xmoe(8), current))
    path = save(record, tmp_path)
    path.rename(path.with_name("copy.json"))
    with pytest.raises(UserError, match=r"copy.json is the record of mini english-xmoe_8-seed1"):
        Records(FIXED, tmp_path)
    (tmp_path / "runs" / "cpu").mkdir()
    path.with_name("copy.json").rename(tmp_path / "runs" / "cpu" / path.name)
    with pytest.raises(UserError, match="is the record of mini"):
        Records(CPU, tmp_path)


# ---- running --------------------------------------------------------------------------------


def test_a_run_is_claimed_by_one_at_a_time(current, tmp_path):
    run, other = final(FIXED, xmoe(8), current), final(FIXED, dense(), current)
    with (
        try_lock(run.name, run.scale, tmp_path) as mine,
        try_lock(run.name, run.scale, tmp_path) as theirs,
        try_lock(other.name, other.scale, tmp_path) as free,
    ):
        assert (mine, theirs, free) == (True, False, True)
    with try_lock(run.name, run.scale, tmp_path) as again:
        assert again


def test_a_packed_folder_of_other_text_is_refused_where_its_records_would_be_stale(tmp_path):
    packed = pack(ZipfText(), PackingConfig(vocab_size=300, max_train_tokens=2000), tmp_path)
    same_packing = changed(packing=PackingConfig(vocab_size=300, max_train_tokens=2000))
    for scale in (FIXED, same_packing):  # of the second, only the source differs
        with pytest.raises(UserError, match="was not packed for scale mini"):
            load_dataset(scale, packed.folder, tmp_path)


def test_a_scale_with_text_of_its_own_takes_no_folder(tmp_path):
    with pytest.raises(UserError, match="takes its text from embedded"):
        load_dataset(changed(corpus=EmbeddedCorpus), tmp_path, tmp_path)
