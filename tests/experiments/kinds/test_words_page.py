"""From finished models to the figure of their words: what is measured, shown and claimed."""

import csv
import dataclasses
import gzip
import json
from pathlib import Path

import pytest

from analysis.routing.words.senses import WordRouting
from experiments.figure7_polysemous_words import CLAIMED, PAGE
from experiments.kinds.words import WORD_SENSES
from experiments.report.render import render, verdicts
from experiments.runner.launch import Options
from experiments.systems import mhmoe
from mhmoe.io import UserError
from tests.finished import finish, measure
from tests.mini import MINI, at_rate
from tests.questions import words, write_manifest
from tests.tiny import ZipfText
from tests.words_figures import measured_by_seed, of_one_system

SCALE = dataclasses.replace(
    at_rate(MINI, 0.01), corpus=ZipfText, packing=dataclasses.replace(MINI.packing, max_test_tokens=6000)
)
LABEL = "MH-MoE, h = 8"  # of the claims; the model has fewer heads, for its size
SYSTEM = mhmoe(8, "parameters", 2)


FIGURE = of_one_system(PAGE, LABEL, SYSTEM)


def write_lexicons(folder: Path) -> None:
    """Every other word has four senses; a few are false friends; word in context has the words themselves."""
    settings, known = WORD_SENSES.settings, words()
    lines = ["lemma\tnoun_senses\tverb_senses\tadj_senses\tadv_senses"]
    lines += [f"{word}\t{4 if i % 2 else 1}\t0\t0\t0" for i, word in enumerate(known)]
    friends = ["lang_a\tlang_b\tword_a\tword_b\trelation", *(f"en\tde\t{w}\t{w}\tfalse_friend" for w in known[:6])]
    items = []
    for i, word in enumerate(known[:24]):
        first, second = f"{known[-1]} {word} {known[-2]}", f"{word} {known[-3 - i]}"
        starts = first.index(word), 0
        ends = starts[0] + len(word), len(word)
        item = {"word": word, "sentence1": first, "sentence2": second, "label": i % 2, "idx": i}
        items.append(item | {"start1": starts[0], "end1": ends[0], "start2": starts[1], "end2": ends[1]})
    contexts = "".join(json.dumps(item) + "\n" for item in items)
    for name, text in (("lexicon", "\n".join(lines)), ("false_friends", "\n".join(friends)), ("contexts", contexts)):
        path = folder / settings[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode())
    write_manifest(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_lexicons(folder)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Options:
    return finish(FIGURE, SCALE, tmp_path_factory.mktemp("finished"), data=data)


def values(options: Options) -> dict[int, WordRouting]:
    return measured_by_seed(WORD_SENSES, SCALE, options)


def test_every_word_has_its_group_and_its_values_of_both_routers(finished: Options):
    found = values(finished)
    assert set(found) == {1, 2}
    known = words()
    for of_seed in found.values():
        columns = of_seed.words
        assert len(columns.word) > 20 and set(columns.part) == {"noun"}
        assert columns.first == [known.index(word) % 2 == 1 for word in columns.word]
        assert min(columns.count) >= 5 and min(columns.tokens) >= 1
        assert all(1 <= value <= 2 for value in (*columns.trained, *columns.untrained))
        assert {"raw", "matched", "null_raw", "change_matched"} <= of_seed.comparisons["senses"].keys()
        assert sum(of_seed.comparisons["contexts"]["raw"].n) == 24


def test_the_page_has_the_figure_and_every_comparison(finished: Options, tmp_path: Path):
    page = render(FIGURE, (SCALE,), tmp_path, finished.results)[tmp_path / f"{FIGURE.slug}.md"]
    assert f"({FIGURE.slug}_mini.png)" in page and (tmp_path / f"{FIGURE.slug}_mini.png").stat().st_size > 10_000
    rows = {
        (row["compared"], row["view"]): row
        for row in csv.DictReader((tmp_path / f"{FIGURE.slug}.csv").read_text().splitlines())
    }
    raw = rows["three senses or more / one sense", "raw"]
    differences = [of_seed.comparisons["senses"]["raw"].difference or 0 for of_seed in values(finished).values()]
    assert float(raw["difference"]) == pytest.approx(sum(differences) / 2, rel=1e-4)
    assert ("one word in two senses / in one sense", "adjusted") in rows
    shown = list(csv.DictReader((tmp_path / f"{FIGURE.slug}_mini.csv").read_text().splitlines()))
    assert {row["panel"] for row in shown} == {
        f"{router}, {which}" for router in ("trained", "untrained") for which in ("all words", "matched pairs")
    }


def test_the_claims_are_judged_from_the_groups_means(finished: Options):
    found = {v.claim.statement: v for v in verdicts([FIGURE], (SCALE,), finished.results)}
    assert len(found) == len(CLAIMED)
    words_ = found[f"{LABEL}: words of three senses or more reach more experts than words of one"]
    means = [m.comparisons["senses"]["raw"].mean or (0, 0) for m in values(finished).values()]
    gaps = [first - second for first, second in means]
    assert words_.n == 2 and words_.difference.mean == pytest.approx(sum(gaps) / 2)


def test_a_lexicon_that_was_changed_is_refused(finished: Options, data: Path, tmp_path: Path, monkeypatch):
    spoiled = tmp_path / "data"
    write_lexicons(spoiled)
    lexicon = spoiled / WORD_SENSES.settings["lexicon"]
    lexicon.write_bytes(lexicon.read_bytes() + b" ")
    monkeypatch.setenv("MHMOE_DATA", str(spoiled))
    options = dataclasses.replace(finished, results=tmp_path / "results")
    for path in (finished.results / "runs").rglob("*.json"):
        target = options.results / path.relative_to(finished.results)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=r"wordnet_sense_counts.* is damaged"):
        measure(FIGURE, SCALE, options)
