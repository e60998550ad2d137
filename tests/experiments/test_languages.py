"""The multilingual task: its text, vocabulary and seeds at a scale, and its page language by language."""

import csv
import dataclasses
import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from experiments.catalog import find
from experiments.report.render import render
from experiments.runner.launch import Options
from experiments.runner.runs import Run
from experiments.runner.store import Records, is_text_of
from experiments.scales import CPU, SCALES, Text
from experiments.systems import xmoe
from experiments.table1_multilingual import PAGE as MULTILINGUAL
from experiments.table1_perplexity import PAGE as ENGLISH
from mhmoe.data.multilingual import MultilingualCorpus
from mhmoe.io import UserError, sha256_of
from mhmoe.training.evaluation import by_group
from mhmoe.training.record import Record
from mhmoe.training.record_checks import Document, Evaluation, summarise_documents
from tests.finished import train
from tests.forged import forged, of_text, save
from tests.mini import MINI, at_rate

LANGUAGES = ("de", "th")
TEXT = Text(corpus=MultilingualCorpus, packing=dataclasses.replace(MINI.packing, vocab_size=320), seeds=(1, 2, 3))
SCALE = dataclasses.replace(at_rate(MINI, 0.01), texts={"multilingual": TEXT})


def multilingual(run: Run, losses: dict[str, float]) -> Record:
    """A record of a multilingual run with these nll per token, language by language."""
    record = forged(run, 4.0)
    rows: list[Document] = [
        {**row, "id": f"{language}/wiki/{i}", "nll": row["tokens"] * (losses[language] + 0.01 * run.seed)}
        for i, row in enumerate(record.metrics["valid"]["documents"])
        for language in LANGUAGES
    ]
    corpus = MultilingualCorpus()
    text: dict[str, Any] = {
        "kind": "multilingual",
        "languages": list(corpus.languages),
        "excluded_sources": list(corpus.excluded_sources),
        "alpha": corpus.alpha,
        "piece_characters": corpus.piece_characters,
        "word_pattern": corpus.word_pattern,
        "order_seed": corpus.order_seed,
        "files": {"multilingual/de-train.jsonl.gz": "0"},
    }
    evaluation: Evaluation = {**summarise_documents(rows), "documents": rows}
    return of_text(record, run, text, {"valid": evaluation, "test": evaluation})


def fill(results: Path) -> None:
    for run in MULTILINGUAL.runs(SCALE, (1, 2, 3), Records(SCALE, results)):
        if run.waits_for:
            continue
        better = 0.2 if run.system.name == "mhmoe_8_compute" else 0.0
        save(multilingual(run, {"de": 4.0 - better, "th": 3.0 + better}), results)


def test_the_task_chooses_among_tables_of_the_same_number() -> None:
    assert find("table1") is ENGLISH
    assert find("table1", "multilingual") is MULTILINGUAL
    assert find("table11", "multilingual").slug == "table11_parameters"  # it exists for one task alone


def test_a_scale_reads_another_tasks_text_with_that_tasks_vocabulary_and_seeds() -> None:
    ours = CPU.for_task("multilingual")
    assert ours.model["vocab_size"] == ours.packing.vocab_size == 4096 and ours.seeds == (1, 2, 3)
    assert ours.corpus().kind == "multilingual" and CPU.for_task("english") is CPU
    assert {k: v for k, v in ours.model.items() if k != "vocab_size"}.items() <= CPU.model.items()
    with pytest.raises(UserError, match="scale paper has no text for task 'multilingual'; it has english"):
        SCALES["paper"].for_task("multilingual")
    assert MULTILINGUAL.planned(SCALES["paper"], Records(SCALES["paper"], Path("none"))) == []


def test_a_multilingual_record_is_current_until_the_mixture_changes(tmp_path) -> None:
    fill(tmp_path)
    records = Records(SCALE, tmp_path)
    run = MULTILINGUAL.runs(SCALE, (1,), records)[0]
    assert records.state(run) == "done"
    data = records.by_name[run.name].config["data"]
    other = dataclasses.replace(run.scale, corpus=lambda: MultilingualCorpus(alpha=0.5))
    assert is_text_of(run.scale, data) and not is_text_of(other, data)


def test_a_run_trains_on_the_tasks_text_with_its_vocabulary_and_its_record_has_the_languages(tmp_path) -> None:
    words = {"de": "der hund und die katze sehen den baum ", "th": "แมว และ หมา เห็น ต้นไม้ "}
    listing: list[dict[str, str]] = []
    for language in LANGUAGES:
        for split in ("train", "valid", "test"):
            rows = [{"text": words[language] * (i + 3), "source": "wiki", "lang": language, "id": i} for i in range(20)]
            path = tmp_path / "data" / "multilingual" / f"{language}-{split}.jsonl.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in rows).encode(), mtime=0))
            listing.append({"file": f"multilingual/{path.name}", "sha256": sha256_of(path)})
    (tmp_path / "data" / "manifest.json").write_text(json.dumps({"files": listing}))
    text = dataclasses.replace(TEXT, corpus=lambda: MultilingualCorpus(path=tmp_path / "data", languages=LANGUAGES))
    scale = dataclasses.replace(SCALE, texts={"multilingual": text})
    one = dataclasses.replace(MULTILINGUAL, rows=MULTILINGUAL.rows[:1], claims=())
    options = Options(seeds=(1,), results=tmp_path / "results", cache=tmp_path / "cache")
    assert train(one, scale, options)
    (record,) = Records(scale, options.results).by_name.values()
    assert record.task == "multilingual" and record.config["model"]["vocab_size"] == 320
    assert record.config["data"]["corpus"]["languages"] == list(LANGUAGES)
    assert set(by_group(record.metrics["test"]["documents"])) == set(LANGUAGES)


def test_the_page_says_what_each_language_says(tmp_path) -> None:
    fill(tmp_path)
    page = render(MULTILINGUAL, (SCALE,), tmp_path, tmp_path)[tmp_path / "table1_multilingual.md"]
    section = page.partition("### Perplexity by language")[2].partition("###")[0]
    header = [cell.strip() for cell in section.splitlines()[2].split("|")]
    rows = {cells[1]: cells for line in section.splitlines() if len(cells := [c.strip() for c in line.split("|")]) > 3}
    column = header.index(xmoe(8).label)
    mean = sum(math.exp(4.0 + 0.01 * seed) for seed in (1, 2, 3)) / 3
    assert float(rows["de"][column]) == pytest.approx(mean, abs=0.06)
    points = list(csv.DictReader((tmp_path / "table1_multilingual_mini_languages.csv").read_text().splitlines()))
    change = {(p["label"], p["language"]): float(p["mean"]) for p in points}
    label = "MH-MoE, 8 experts, h = 4, `compute`"
    assert change[label, "de"] == pytest.approx(100 * math.expm1(-0.2), rel=1e-4)
    assert change[label, "th"] == pytest.approx(100 * math.expm1(0.2), rel=1e-4)
    assert (tmp_path / "table1_multilingual_mini_languages.png").is_file()


def test_without_records_there_is_no_section(tmp_path) -> None:
    page = render(MULTILINGUAL, (SCALE, SCALES["paper"]), tmp_path, tmp_path)[tmp_path / "table1_multilingual.md"]
    assert "## Scale" not in page
