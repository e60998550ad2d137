"""Pages that ask questions, where no data folder is given: of a generated one, and they say so."""

import csv
import dataclasses
from pathlib import Path

import pytest

from experiments.figure1_expert_activation import PAGE as FIGURE1
from experiments.figure7_polysemous_words import PAGE as FIGURE7
from experiments.kinds.score_table import ZERO_SHOT_MLP_LAYERS
from experiments.kinds.words import WORD_SENSES
from experiments.report.render import render
from experiments.runner.launch import Options
from experiments.runner.measurements import Measurement, SomeResult, measured
from experiments.runner.page import Page
from experiments.runner.store import Records
from experiments.scales import Text
from experiments.systems import mhmoe
from experiments.table7_mlp_layers import PAGE as TABLE7
from mhmoe.data.multilingual import MultilingualCorpus
from tests.finished import finish
from tests.mini import MINI, at_rate
from tests.questions import MADE, write_questions
from tests.words_figures import of_one_system

SCALE = dataclasses.replace(
    at_rate(MINI, 0.01),
    name="smoke",  # whose settings of the measurements are small
    corpus=lambda: MADE.english,
    model={**MINI.model, "max_position_embeddings": 64},
    packing=dataclasses.replace(MINI.packing, max_test_tokens=10_000),
    texts={"multilingual": Text(corpus=MultilingualCorpus, packing=MINI.packing, seeds=(1,))},
    stand_in=MADE,
)
PAGES: dict[str, Page] = {
    "table7": dataclasses.replace(TABLE7, rows=TABLE7.rows[:1], claims=()),
    "figure1": dataclasses.replace(FIGURE1, systems={"MH-MoE": mhmoe(32, "compute")}, claims=()),
    "figure7": of_one_system(FIGURE7, "MH-MoE, h = 8", mhmoe(8, "parameters", 2)),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Options:
    folder = tmp_path_factory.mktemp("finished")
    return [finish(page, SCALE, folder, seeds=(1,)) for page in PAGES.values()][-1]


def values_of(measurement: Measurement[SomeResult], options: Options) -> SomeResult:
    """Of the one model that was measured so."""
    records = Records(SCALE, options.results).by_name.values()
    found = [measured(measurement, record, options.results) for record in records]
    (values,) = (m.values for m in found if m is not None and m.values is not None)
    return values


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_whole_and_says_that_its_questions_are_generated(name: str, finished: Options, tmp_path: Path):
    experiment = PAGES[name]
    page = render(experiment, (SCALE,), tmp_path, finished.results)[tmp_path / f"{experiment.slug}.md"]
    assert "Questions and lexicons are generated" in page and "not run" not in page.lower()
    pictures = [line.split("](")[1].rstrip(")") for line in page.splitlines() if line.startswith("![")]
    assert len(pictures) == {"table7": 0, "figure1": 3, "figure7": 1}[name]
    assert all((tmp_path / picture).stat().st_size > 10_000 for picture in pictures)
    if name == "figure1":
        assert "text: generated multilingual (bg, de," in page
    if name == "figure7":
        rows = csv.DictReader((tmp_path / f"{experiment.slug}.csv").read_text().splitlines())
        of_words = {row["compared"] for row in rows if row["view"] == "raw" and row["first"]}
        assert of_words >= {FIGURE7.headings[key] for key in ("senses", "false_friends")}
        assert min(values_of(WORD_SENSES, finished).comparisons["contexts"]["raw"].n) >= 10


def test_real_questions_are_asked_where_generated_ones_were(finished: Options, tmp_path: Path):
    experiment = PAGES["table7"]
    assert values_of(ZERO_SHOT_MLP_LAYERS, finished).is_generated
    write_questions(tmp_path / "data")
    finish(experiment, SCALE, finished.results.parent, seeds=(1,), data=tmp_path / "data")
    assert not values_of(ZERO_SHOT_MLP_LAYERS, finished).is_generated
    page = render(experiment, (SCALE,), tmp_path, finished.results)[tmp_path / f"{experiment.slug}.md"]
    assert "## Zero-shot" in page and "are generated" not in page
