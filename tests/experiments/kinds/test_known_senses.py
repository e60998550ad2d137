"""Words whose senses are known: what is measured of them, and the page that shows it."""

import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analysis.routing.text import encode
from analysis.routing.words import known_senses
from analysis.routing.words.in_context import contexts_of_generated
from analysis.routing.words.known_senses import (
    KnownSenses,
    by_word,
    choice_of_sense,
    compare_beside,
    compare_topics,
    measure_known_senses,
)
from experiments.figure7_known_senses import CLAIMED, PAGE
from experiments.kinds.words import KNOWN_SENSES
from experiments.report.render import render, verdicts
from experiments.runner.launch import Options
from experiments.scales import Text
from experiments.systems import mhmoe
from mhmoe.data.packing import PackedDataset, PackingConfig, pack
from mhmoe.data.synthetic import GeneratedCorpus
from tests import tiny
from tests.finished import finish
from tests.mini import MINI, at_rate
from tests.words_figures import measured_by_seed, of_one_system

CORPUS = GeneratedCorpus(languages=2, topics=6, headwords=320, documents_per_split=300, sentences=1)
PACKING = PackingConfig(vocab_size=320, max_train_tokens=20_000)
SCALE = dataclasses.replace(
    at_rate(MINI, 0.01),
    name="smoke",  # whose settings of the measurement are small
    model={**MINI.model, "max_position_embeddings": 96},
    texts={"generated": Text(corpus=lambda: CORPUS, packing=PACKING, seeds=(1, 2))},
)
LABEL = "MH-MoE, h = 8"  # of the claims; the model has fewer heads, for its size
SYSTEM = mhmoe(8, "parameters", 2)


FIGURE = of_one_system(PAGE, LABEL, SYSTEM)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    return pack(CORPUS, PACKING, tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Options:
    return finish(FIGURE, SCALE, tmp_path_factory.mktemp("finished"))


def values(options: Options) -> dict[int, KnownSenses]:
    return measured_by_seed(KNOWN_SENSES, SCALE, options)


def test_the_choice_of_a_sense_is_that_of_a_loop(text: PackedDataset):
    model, topics, followers = tiny.model("mhmoe_parameters").eval(), CORPUS.topics_of(), CORPUS.followers()
    paragraphs = list(CORPUS.paragraphs_with_truth("test"))[:60]
    asked: list[tuple[str, str]] = []

    def spy(strings: list[str], tokenizer: Any) -> Any:
        asked.extend(zip(strings[::2], strings[1::2], strict=True))
        return encode(strings, tokenizer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known_senses, "encode", spy)
        found = choice_of_sense(model, text.tokenizer, paragraphs, CORPUS, 25)
    assert found.n == len(asked) == 25
    right = 0
    for pair in asked:
        nats = []
        for string in pair:
            encoding = text.tokenizer.encode(string, add_special_tokens=False)
            with torch.no_grad():
                logits = model(torch.tensor([[0, *encoding.ids]])).logits[0].log_softmax(-1)
            begin = string.rindex(" ") + 1
            nats.append(
                -sum(
                    float(logits[i, token])
                    for i, (token, (_, end)) in enumerate(zip(encoding.ids, encoding.offsets, strict=True))
                    if end > begin
                )
            )
        right += nats[0] < nats[1]
        (before, word, true), (*_, false) = pair[0].rsplit(" ", 2), pair[1].rsplit(" ", 1)
        assert any(t.startswith(f"{before} {word} {true}") for t, _ in paragraphs)
        of = {s: set(several) for s, several in enumerate(followers[word])}
        (sense,), (other,) = ([s for s in of if w in of[s]] for w in (true, false))
        assert sense != other
        assert CORPUS.language_of(topics[word][sense]) == CORPUS.language_of(topics[word][other])
    assert found.accuracy == pytest.approx(right / 25) and found.low < found.accuracy < found.high


def test_a_model_that_knows_the_senses_chooses_them(text: PackedDataset, monkeypatch: pytest.MonkeyPatch):
    """Planted: what stands in the text costs nothing, all else a nat a token."""
    paragraphs = list(CORPUS.paragraphs_with_truth("test"))
    known = [text.tokenizer.encode(t, add_special_tokens=False).ids for t, _ in paragraphs]

    def losses(model: Any, documents: Any) -> list[np.ndarray]:
        return [np.full(len(ids), float(not any(k[: len(ids)] == ids for k in known))) for ids in documents]

    monkeypatch.setattr(known_senses, "token_losses", losses)
    found = choice_of_sense(tiny.model("mhmoe_parameters"), text.tokenizer, paragraphs, CORPUS, 30)
    assert found.accuracy == 1 and found.margin > 0.9


def test_experts_that_depend_on_the_sense_are_found_and_those_of_the_topic_cancel():
    paragraphs, kinds, draw = list(CORPUS.paragraphs_with_truth("test")), CORPUS.kinds(), np.random.RandomState(0)
    pairs: dict[str, dict[str, Any]] = {"topic": {}, "sense": {}}
    for kind in ("ambiguous", "diverse"):
        items = contexts_of_generated(paragraphs, [word for word in kinds if kinds[word] == kind], 6)
        noise = draw.rand(len(items)) * 0.3
        of_topic = [n + 0.2 * (not item.same_sense) for n, item in zip(noise, items, strict=True)]
        of_sense = [
            n + 0.2 * (kind == "ambiguous" and not item.same_sense) for n, item in zip(noise, items, strict=True)
        ]
        for depends, changed in (("topic", of_topic), ("sense", of_sense)):
            pairs[depends][kind] = by_word(items, changed, noise.tolist())
    of_ambiguous = {depends: compare_topics(of["ambiguous"]) for depends, of in pairs.items()}
    assert all(found["raw"].difference == pytest.approx(0.2, abs=0.05) for found in of_ambiguous.values())
    assert all(abs(found["null_raw"].difference or 1) < 0.05 for found in of_ambiguous.values())
    beside = {depends: compare_beside(of["ambiguous"], of["diverse"]) for depends, of in pairs.items()}
    sense, topic = beside["sense"], beside["topic"]["raw"]
    assert (sense["raw"].low or 0) > 0.1 and sense["change_raw"].difference == pytest.approx(0.2)
    assert topic.low is not None and topic.high is not None and topic.low < 0 < topic.high


def test_a_paragraph_longer_than_the_context_is_refused(text: PackedDataset):
    options: dict[str, Any] = {"split": "test", "seed": 1, "rule": "mean", "min_count": 5, "per_word": 2, "choices": 9}
    options["true_cognates"] = "diverse"
    model = tiny.model("mhmoe_parameters", max_position_embeddings=16)
    with pytest.raises(ValueError, match=r"a paragraph of \d+ tokens exceeds the model's context of 16"):
        measure_known_senses(model, text.tokenizer, CORPUS, **options)


def test_every_head_has_its_group_its_topics_and_its_values_of_both_routers(finished: Options):
    found, kinds, topics = values(finished), CORPUS.kinds(), CORPUS.topics_of()
    assert set(found) == {1, 2}
    for of_seed in found.values():
        words = of_seed.words
        assert len(words.word) > 20 and min(words.count) >= 5 and min(words.tokens) >= 1
        assert all(1 <= value <= 2 for value in (*words.trained, *words.untrained))
        for word, first, part in zip(words.word, words.first, words.part, strict=True):
            assert kinds[word] == ("ambiguous" if first else "diverse") and int(part) == len(topics[word])
        compared = of_seed.comparisons
        assert compared["senses"]["matched"].n[0] > 5 and compared["diversity"]["matched"].n[0] > 5
        shared = [w for w in words.word if {CORPUS.language_of(t) for t in topics[w]} == {0, 1}]
        of_word = {w: (f, v) for w, f, v in zip(words.word, words.first, words.trained, strict=True) if w in shared}
        sides = [[value for first, value in of_word.values() if first is side] for side in (True, False)]
        assert compared["cognates"]["raw"].n == tuple(map(len, sides)) and len(sides[0]) > 5
        assert compared["cognates"]["raw"].mean == pytest.approx([np.mean(side) for side in sides])
        numbers = tuple(compared[f"{kind}_contexts"]["raw"].n[0] for kind in ("ambiguous", "diverse"))
        assert compared["contexts_beside"]["raw"].n == numbers and min(numbers) > 10
        assert of_seed.choices["trained"].n == of_seed.choices["untrained"].n == 200


def test_the_page_has_every_comparison_and_what_was_learned(finished: Options, tmp_path: Path):
    page = render(FIGURE, (SCALE,), tmp_path, finished.results)[tmp_path / f"{FIGURE.slug}.md"]
    assert f"({FIGURE.slug}_smoke.png)" in page and "Are the senses learned?" in page and "control" not in page
    rows = list(csv.DictReader((tmp_path / f"{FIGURE.slug}.csv").read_text().splitlines()))
    assert {row["compared"] for row in rows} == set(FIGURE.headings.values())
    chosen = [of_seed.choices["trained"].accuracy for of_seed in values(finished).values()]
    assert f"{50 * sum(chosen):.1f}%" in page


def test_the_claim_beside_diverse_words_is_the_difference_of_differences(finished: Options):
    found = {v.claim.statement: v for v in verdicts([FIGURE], (SCALE,), finished.results)}
    assert len(found) == len(CLAIMED)
    verdict = next(v for statement, v in found.items() if "another topic changes" in statement)
    gaps = [of_seed.comparisons["contexts_beside"]["raw"].difference or 0 for of_seed in values(finished).values()]
    assert verdict.n == 2 and verdict.difference.mean == pytest.approx(sum(gaps) / 2)
