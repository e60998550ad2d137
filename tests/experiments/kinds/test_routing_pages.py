"""From finished models to the figures of their routing: what is read, what is counted, what is claimed."""

import csv
import dataclasses
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis.claims.measured import MeasuredClaim
from analysis.routing import activation_figure, heatmaps
from analysis.routing.activation import QuestionRouting
from analysis.routing.measures import Counts, summary, total
from analysis.zero_shot.harness import questions
from analysis.zero_shot.tasks import find
from experiments.figure1_expert_activation import PAGE as FIGURE1
from experiments.figure5_expert_activation import PAGE as FIGURE5
from experiments.kinds.routing import BITS, EFFECTIVE, REACHED, REACHED_UNTRAINED, ROUTING_ENGLISH, RoutingFigure
from experiments.report.captions import current_runs, measured_values
from experiments.report.render import render, verdicts
from experiments.runner.launch import Options
from experiments.runner.store import Records
from experiments.scales import CPU
from experiments.tuning import PAGE as TUNING
from mhmoe import MultiHeadConfig, SparseMoEConfig
from tests.finished import finish
from tests.forged import forged, save
from tests.mini import MINI, at_rate
from tests.questions import ITEMS, write_questions
from tests.tiny import ZipfText

SCALE = dataclasses.replace(at_rate(MINI, 0.01), corpus=ZipfText)
SOME = ("X-MoE, k = 1", "X-MoE, k = 4", "MH-MoE, h = 4")


def some(figure: RoutingFigure) -> RoutingFigure:
    """The figure of fewer systems: training them takes seconds."""
    systems = {label: figure.systems[label] for label in SOME}
    names = {system.name for system in systems.values()}
    claims = [c for c in figure.claims if {c.higher.system, c.lower.system} <= names]  # pyright: ignore
    return dataclasses.replace(figure, systems=systems, claims=claims)


FIGURE = some(FIGURE5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_questions(folder)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Options:
    return finish(FIGURE, SCALE, tmp_path_factory.mktemp("finished"), data=data)


def values(options: Options) -> dict[str, dict[int, QuestionRouting]]:
    current = current_runs(FIGURE.all_systems(), SCALE, Records(SCALE, options.results), "english")
    found = measured_values([ROUTING_ENGLISH], current, options.results)
    return {label: found[ROUTING_ENGLISH.name, system.name] for label, system in FIGURE.systems.items()}


def test_the_questions_are_what_lm_eval_has_the_model_read(data: Path):
    texts, source = questions(find(["rte", "winogrande"]), data, 4)
    assert {name: len(several) for name, several in texts.items()} == {"rte": 4, "winogrande": 4}
    assert source.kind == "local" and [len(sha256) for sha256 in source.files.values()] == [64, 64]
    assert all("True or False?" in text for text in texts["rte"])
    assert not any("_" in text for text in texts["winogrande"])  # an answer stands in the gap


def test_every_question_is_counted_for_its_task_by_the_trained_and_by_the_untrained_router(finished: Options):
    for label, seeds in values(finished).items():
        assert set(seeds) == {1, 2}
        for measured in seeds.values():
            trained, untrained = measured.trained.groups, measured.untrained.groups
            assert len(trained) == 9 and trained.keys() == untrained.keys()
            whole = total(trained)
            choices = whole.tokens * whole.rows_per_token * whole.top_k
            assert [sum(layer) for layer in whole.selections] == [choices] * len(whole.selections)
            assert whole.tokens == sum(group.tokens for group in trained.values()) > 9 * ITEMS
            assert whole.rows_per_token == (4 if label.startswith("MH-MoE") else 1)
            assert whole.selections != total(untrained).selections


def test_the_page_has_pictures_and_every_router_beside_its_nulls(finished: Options, tmp_path: Path):
    page = render(FIGURE, (SCALE,), tmp_path, finished.results)[tmp_path / f"{FIGURE.slug}.md"]
    for part in ("", "_thresholds", "_groups"):
        assert f"({FIGURE.slug}_mini{part}.png)" in page
        assert (tmp_path / f"{FIGURE.slug}_mini{part}.png").stat().st_size > 10_000
    rows = list(csv.DictReader((tmp_path / f"{FIGURE.slug}.csv").read_text().splitlines()))
    assert [(row["label"], row["router"]) for row in rows] == [
        (label, router) for label in SOME for router in ("trained", "untrained", "random")
    ]
    by_row = {(row["label"], row["router"]): float(row["distinct_share"]) for row in rows}
    assert by_row["X-MoE, k = 1", "trained"] == pytest.approx(1 / 8)  # one expert of eight, whatever is trained
    assert by_row["X-MoE, k = 4", "random"] == pytest.approx(4 / 8)
    assert 1 / 8 <= by_row["MH-MoE, h = 4", "trained"] <= 4 / 8
    heat = list(csv.DictReader((tmp_path / f"{FIGURE.slug}_mini.csv").read_text().splitlines()))
    of = [float(row["selections_per_token"]) for row in heat if row["system"] == "MH-MoE, h = 4"]
    assert sum(of) == pytest.approx(4 * 1)  # h selections a token in its one MoE layer


def test_pictures_of_one_seed_say_which_and_those_of_several_name_them_all(
    finished: Options, tmp_path: Path, monkeypatch
):
    notes: dict[str, str] = {}

    def keep(figure: Figure, path: Path) -> None:
        texts = [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)]
        notes[path.stem] = " ".join(next(text for text in texts if text.startswith("Scale mini")).split())

    for module in (heatmaps, activation_figure):
        monkeypatch.setattr(module, "save", keep)
    render(FIGURE, (SCALE,), tmp_path, finished.results)
    stem = f"{FIGURE.slug}_mini"
    for one in (stem, f"{stem}_groups"):
        assert "Models of seed 1 alone." in notes[one] and "seeds" not in notes[one]
    assert "; seeds 1, 2." in notes[f"{stem}_thresholds"] and "alone" not in notes[f"{stem}_thresholds"]


def test_the_claims_are_judged_from_the_measurements(finished: Options):
    found = {v.claim.statement: v for v in verdicts([FIGURE], (SCALE,), finished.results)}
    assert len(found) == len(FIGURE.claims) == 2 + 1
    denser = found["MH-MoE, h = 4: more experts in effective use than X-MoE, k = 1"]
    of_seeds = values(finished)
    ours, others = (
        [100 * summary(total(m.trained.groups)).effective_share for m in of_seeds[label].values()]
        for label in ("MH-MoE, h = 4", "X-MoE, k = 1")
    )
    assert denser.n == 2 and denser.difference.mean == pytest.approx((sum(ours) - sum(others)) / 2)
    assert [EFFECTIVE.of(m) for m in of_seeds["X-MoE, k = 1"].values()] == others
    assert {claim.matching for claim in FIGURE.claims} == {"parameters"}
    assert {BITS.of(m) for m in of_seeds["X-MoE, k = 4"].values()} == {
        sum(bits := m.trained.specialisation.bits) / len(bits) for m in of_seeds["X-MoE, k = 4"].values()
    }
    before = found["MH-MoE, h = 4: more experts that a token reaches than before training"]
    measured = of_seeds["MH-MoE, h = 4"]
    changes = [(REACHED.of(m) or 0) - (REACHED_UNTRAINED.of(m) or 0) for m in measured.values()]
    assert before.difference.mean == pytest.approx(sum(changes) / 2)


def test_the_random_null_keeps_heads_apart_where_the_search_chose_so(tmp_path: Path):
    search = dataclasses.replace(TUNING, rounds=(dataclasses.replace(TUNING.rounds[0], trials=4, kept=2),), settling=1)
    scale = dataclasses.replace(MINI, training={**MINI.training, "steps": 8})
    tuned = search.tuned("mhmoe_8_compute")
    figure = dataclasses.replace(FIGURE, systems={"tuned": tuned, "plain": FIGURE.systems["MH-MoE, h = 4"]}, claims=())
    for per_head in (True, False):
        (best, *_) = (n for n in range(4) if search.point(n).settings.per_head is per_head)
        results = tmp_path / str(per_head)
        for _ in range(2):  # the short runs, then the full ones
            for run in search.runs(scale, (1,), Records(scale, results)):
                if run.system.name.startswith("mhmoe_8_compute"):
                    save(forged(run, 2.0 if run.system.name.endswith(f"_t{best:02d}") else 5.0), results)
        records = Records(scale, results)
        assert search.chosen(scale, "mhmoe_8_compute", records) == best
        assert [figure._apart(label, records) for label in ("tuned", "plain")] == [per_head, False]


def test_what_a_choice_tells_is_claimed_of_systems_with_as_many_experts_and_choices():
    of = {system.name: system for system in FIGURE1.systems.values()}
    (told,) = [c for c in FIGURE1.claims if isinstance(c, MeasuredClaim) and c.higher.quantity == BITS]
    layers = [of[side.system].layer(CPU) for side in (told.higher, told.lower)]
    xmoe, mhmoe = layers[0], layers[1]
    assert isinstance(xmoe, SparseMoEConfig) and isinstance(mhmoe, MultiHeadConfig)
    assert isinstance(mhmoe.inner, SparseMoEConfig) and mhmoe.inner.router.num_experts == xmoe.router.num_experts
    assert xmoe.router.top_k == mhmoe.heads * mhmoe.inner.router.top_k == 4 and told.matching == "parameters"


def test_groups_of_different_models_do_not_add_up():
    group = Counts(tokens=1, rows_per_token=1, top_k=1, selections=[[1]], probability=[[1]], distinct=[[0, 1]])
    assert total({"a": group, "b": group}).tokens == 2
    with pytest.raises(ValueError, match="of one model"):
        total({"a": group, "b": dataclasses.replace(group, top_k=2)})
