"""The task of masked images and text, from its corpus to its pages, on drawn images."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from analysis.routing.patches import PatchRouting
from analysis.visual_questions import Answers
from experiments.catalog import find
from experiments.figure8_image_patches import PAGE as PATCHES
from experiments.kinds.patches import IMAGE_PATCHES
from experiments.kinds.visual_questions import FINE_TUNED, VISUAL_QUESTIONS
from experiments.runner.launch import Options
from experiments.runner.measurements import measured
from experiments.runner.runs import model_config, training_config
from experiments.runner.store import Records, is_text_of
from experiments.scales import CPU, MULTIMODAL, SCALES, SMOKE
from experiments.systems import dense, mhmoe, xmoe
from experiments.table1_multimodal import PAGE as TABLE
from experiments.table4_visual_questions import PAGE as QUESTIONS
from mhmoe.data.masking import BEIT3
from mhmoe.data.multimodal import MultimodalCorpus
from mhmoe.data.shapes import Shapes
from mhmoe.data.synthetic import GeneratedCorpus
from mhmoe.training.evaluation import by_group
from tests.finished import finish
from tests.mini import MINI, at_rate

CORPUS = MultimodalCorpus(
    images=Shapes(side=8, images_per_split=30),
    text=GeneratedCorpus(documents_per_split=20),
    patch=2,
    codes=24,
    piece_characters=200,
)
OF_TASK = dataclasses.replace(
    SMOKE.texts[MULTIMODAL],
    corpus=lambda: CORPUS,
    packing=dataclasses.replace(MINI.packing, vocab_size=300),
    seeds=(1, 2),
)
SCALE = dataclasses.replace(
    at_rate(MINI, 0.01),
    name="smoke",  # whose settings of the measurements read no files
    model={**MINI.model, "max_position_embeddings": 32},
    texts={MULTIMODAL: OF_TASK},
)
KEPT = [dense(), xmoe(8), mhmoe(8, "compute")]
NAMES = {system.name for system in KEPT}
SMALL_TABLE = dataclasses.replace(TABLE, rows=[row for row in TABLE.rows if row.system.name in NAMES], claims=())
SMALL_QUESTIONS = dataclasses.replace(
    QUESTIONS, rows=[row for row in QUESTIONS.rows if row.system.name in NAMES], claims=()
)
SMALL_PATCHES = dataclasses.replace(
    PATCHES,
    systems={label: system for label, system in PATCHES.systems.items() if system.name in NAMES},
    claims=(),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Options:
    folder = tmp_path_factory.mktemp("multimodal")
    finish(SMALL_TABLE, SCALE, folder)
    finish(SMALL_QUESTIONS, SCALE, folder)
    return finish(SMALL_PATCHES, SCALE, folder)


def test_the_task_chooses_its_table_and_its_figure() -> None:
    assert find("table1", MULTIMODAL) is TABLE
    assert find("figure4", MULTIMODAL).task == MULTIMODAL and find("testbed", MULTIMODAL).task == MULTIMODAL
    assert find("table4") is QUESTIONS and find("figure8") is PATCHES  # they exist for one task alone


def test_its_models_see_both_sides_and_mask_as_beit3_does_and_others_as_before() -> None:
    scale = CPU.for_task(MULTIMODAL)
    assert not model_config(scale, xmoe(8)).is_causal and model_config(CPU, xmoe(8)).is_causal
    (run,) = (r for r in TABLE.planned(SMOKE, Records(SMOKE, Path("none"))) if r.system.name == "xmoe_8")
    training = training_config(run)
    assert dict(training.masked) == dict(BEIT3) and training.weight_decay == 0.05
    assert model_config(run.scale, run.system).vocab_size == run.scale.packing.vocab_size


def test_every_scale_that_has_it_has_room_for_its_visual_tokens() -> None:
    having = [scale for scale in SCALES.values() if scale.reads(MULTIMODAL)]
    assert {scale.name for scale in having} == {"smoke", "cpu", "long"}
    for scale in having:
        text = scale.texts[MULTIMODAL]
        corpus = text.corpus()
        assert isinstance(corpus, MultimodalCorpus)
        assert text.packing.vocab_size >= 257 + len(corpus.symbols)
        assert corpus.grid**2 < scale.model["max_position_embeddings"]


def test_a_table_shows_each_kind_and_no_bits_per_byte(finished: Options, tmp_path: Path) -> None:
    records = Records(SCALE, finished.results)
    section = SMALL_TABLE.section(SCALE, records, tmp_path)
    assert section is not None
    assert "bits per byte" not in section.markdown.lower() and "generated, shapes" in section.markdown
    record = records.by_name["multimodal-xmoe_8-seed1"]
    groups = by_group(record.metrics["test"]["documents"])
    assert set(groups) == {"images", "pairs", "texts"}
    both = [records.by_name[f"multimodal-xmoe_8-seed{seed}"] for seed in (1, 2)]
    for kind in groups:
        mean = np.mean([by_group(r.metrics["test"]["documents"])[kind]["perplexity"] for r in both])
        (line,) = (line for line in section.markdown.splitlines() if line.startswith(f"| {kind} "))
        assert f"{mean:.1f}" in line
    assert is_text_of(SCALE.for_task(MULTIMODAL), record.config["data"])
    assert not is_text_of(CPU.for_task(MULTIMODAL), record.config["data"])


def test_questions_are_answered_by_every_model_and_the_page_shows_their_shares(
    finished: Options, tmp_path: Path
) -> None:
    records = Records(SCALE, finished.results)
    section = SMALL_QUESTIONS.section(SCALE, records, tmp_path)
    assert section is not None and [row["seeds"] for row in section.rows] == [2] * 6
    assert section.markdown.count("| Dense ") == 2 and "after 20 more steps, on 320 questions" in section.markdown
    for measurement, trained in ((FINE_TUNED, "fine-tuned"), (VISUAL_QUESTIONS, "pre-trained")):
        found: list[Answers] = []
        for seed in (1, 2):
            one = measured(measurement, records.by_name[f"multimodal-dense-seed{seed}"], finished.results)
            assert one is not None and one.values is not None
            found.append(one.values)
        assert found[0].key == found[1].key and len(found[0].right) == found[0].questions == 30
        (row,) = (row for row in section.rows if (row["label"], row["trained"]) == ("Dense", trained))
        assert row["accuracy"] == pytest.approx(np.mean([one.right.count("1") / 30 for one in found]))
        assert row["nll"] == pytest.approx(np.mean([one.nll for one in found]))
    tuned, before = (
        [row["nll"] for row in section.rows if row["trained"] == way] for way in ("fine-tuned", "pre-trained")
    )
    assert max(tuned) < min(before)  # all three find right answers likelier than any did before


def test_patches_are_counted_in_models_that_route(finished: Options, tmp_path: Path) -> None:
    records = Records(SCALE, finished.results)
    section = SMALL_PATCHES.section(SCALE, records, tmp_path)
    assert section is not None and [row["weights"] for row in section.rows] == ["trained", "untrained"]
    one = measured(IMAGE_PATCHES, records.by_name["multimodal-mhmoe_8_compute-seed1"], finished.results)
    assert one is not None and isinstance(one.values, PatchRouting)
    assert one.values.patches == 16 * one.values.images == 16 * 30
    assert all(1 <= value <= 4 for value in one.values.trained.by_tenth)  # four sub-tokens, one choice each
    assert (tmp_path / "figure8_image_patches_smoke.png").is_file()
