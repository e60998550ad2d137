"""Words whose senses are known: what is measured of them, and the page that shows it."""

import csv
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.known_senses import follower_losses
from analysis.measured_claims import MeasuredClaim
from experiments.figure7_known_senses import CLAIMED, EXPERIMENT
from experiments.measurements import MEASUREMENTS, measured
from experiments.recipes import mhmoe
from experiments.rendering import render, verdicts
from experiments.running import Options, measure_missing, run_missing
from experiments.runs import Records
from experiments.schema import Text
from mhmoe.generated import GeneratedCorpus, Occurrence
from mhmoe.packing import PackedText, PackingConfig, pack
from tests import tiny
from tests.mini import MINI, at_rate

CORPUS = GeneratedCorpus(languages=2, topics=6, heads=150, documents_per_split=90)
PACKING = PackingConfig(vocab_size=320, max_train_tokens=20_000)
SCALE = dataclasses.replace(
    at_rate(MINI, 0.01),
    name="smoke",  # whose settings of the measurement are small
    texts={"generated": Text(corpus=lambda: CORPUS, packing=PACKING, seeds=(1, 2))},
)
LABEL = "MH-MoE, h = 8"  # of the claims; the model has fewer heads, for its size
SYSTEM = mhmoe(8, "parameters", 2)


def smaller() -> Any:
    claims = [
        dataclasses.replace(
            claim,
            higher=dataclasses.replace(claim.higher, system=SYSTEM.name),
            lower=dataclasses.replace(claim.lower, system=SYSTEM.name),
        )
        for claim in EXPERIMENT.claims[: len(CLAIMED)]
        if isinstance(claim, MeasuredClaim)
    ]
    return dataclasses.replace(EXPERIMENT, systems={LABEL: SYSTEM}, claims=claims)


FIGURE = smaller()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> PackedText:
    return pack(CORPUS, PACKING, tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Options:
    folder = tmp_path_factory.mktemp("finished")
    options = Options(seeds=(1, 2), results=folder / "results", cache=folder / "cache")
    assert run_missing(FIGURE, SCALE, "generated", options) and measure_missing(FIGURE, SCALE, "generated", options)
    return options


def values(options: Options) -> dict[int, dict[str, Any]]:
    records = Records(SCALE, options.results).by_name.values()
    found = {r.seed: measured(MEASUREMENTS["known_senses"], r, options.results) for r in records}
    return {seed: m.values for seed, m in found.items() if m is not None}


def test_what_a_follower_costs_is_that_of_a_loop(text: PackedText):
    model, kinds = tiny.model("mhmoe_parameters", max_position_embeddings=256).eval(), CORPUS.kinds()
    paragraphs = list(CORPUS.paragraphs_with_truth("test"))[:9]
    expected: dict[str, list[float]] = {"ambiguous": [], "general": []}
    for paragraph, occurrences in paragraphs:
        encoding = text.tokenizer.encode(paragraph, add_special_tokens=False)
        with torch.no_grad():
            logits = model(torch.tensor([[0, *encoding.ids]])).logits[0].log_softmax(-1)
        for occurrence in occurrences:
            if kinds[occurrence.word] in expected and occurrence.start >= len(paragraph) / 2:
                follower = range(occurrence.end + 1, occurrence.end + 1 + len(_next_word(paragraph, occurrence)))
                expected[kinds[occurrence.word]].append(
                    -sum(
                        float(logits[i, token])
                        for i, (token, (a, b)) in enumerate(zip(encoding.ids, encoding.offsets, strict=True))
                        if a < follower.stop and b > follower.start
                    )
                )
    found = follower_losses(model, text.tokenizer, paragraphs, CORPUS)
    assert found["n"] == {kind: len(losses) for kind, losses in expected.items()} and min(found["n"].values()) > 20
    for kind, losses in expected.items():
        assert found[kind] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def _next_word(paragraph: str, occurrence: Occurrence) -> str:
    return paragraph[occurrence.end :].split()[0].rstrip(".")


def test_who_knows_the_language_alone_pays_for_the_senses_it_may_have(text: PackedText):
    """Two topics of one language, each the sense of half of the occurrences: one bit more."""
    corpus = GeneratedCorpus(topics=4, heads=60)
    word, topics = next((w, t) for w, t in corpus.topics_of().items() if corpus.kinds()[w] == "ambiguous")
    paragraph = f"{'bu ' * 30}{word} da."
    start = paragraph.index(word)
    occurrences = [Occurrence(word, start, start + len(word), sense, topics[sense]) for sense in (0, 1)]
    model = tiny.model("mhmoe_parameters", max_position_embeddings=256).eval()
    found = follower_losses(model, text.tokenizer, [(paragraph, [o]) for o in occurrences], corpus)
    assert found["sense_known"] == pytest.approx(math.log(3))
    assert found["sense_unknown"] == pytest.approx(math.log(6))
    assert found["n"] == {"ambiguous": 2, "general": 0} and "general" not in found


def test_every_head_has_its_group_its_topics_and_its_values_of_both_routers(finished: Options):
    found, senses, topics = values(finished), CORPUS.senses(), CORPUS.topics_of()
    assert set(found) == {1, 2}
    for of_seed in found.values():
        assert len(of_seed["words"]) > 20
        for word, (several, number, count, tokens, trained, untrained) in of_seed["words"].items():
            assert several == (senses[word] > 1) and int(number) == len(topics[word])
            assert count >= 5 and tokens >= 1 and 1 <= trained <= 2 and 1 <= untrained <= 2
        assert of_seed["senses"]["pairs"] > 5 and of_seed["cognates"]["pairs"] > 2
        for kind in ("ambiguous", "general"):
            assert sum(of_seed[f"{kind}_contexts"]["raw"]["n"]) == 200
        assert of_seed["followers"]["sense_unknown"] > of_seed["followers"]["sense_known"]


def test_the_page_has_every_comparison_and_what_was_learned(finished: Options, tmp_path: Path):
    page = render(FIGURE, (SCALE,), tmp_path, finished.results)[tmp_path / f"{FIGURE.stem}.md"]
    assert f"({FIGURE.stem}_smoke.png)" in page and "Are the senses learned?" in page
    rows = list(csv.DictReader((tmp_path / f"{FIGURE.stem}.csv").read_text().splitlines()))
    assert {row["compared"] for row in rows} == set(FIGURE.compared.values())
    ambiguous = [of_seed["followers"]["ambiguous"] for of_seed in values(finished).values()]
    assert f"{sum(ambiguous) / 2:.3f}" in page


def test_the_claim_beside_general_words_is_the_difference_of_differences(finished: Options):
    found = {v.claim.statement: v for v in verdicts([FIGURE], (SCALE,), finished.results)}
    assert len(found) == len(CLAIMED)
    verdict = found[f"{LABEL}: it does so more than a general word does with the topic"]
    gaps = [
        of_seed["ambiguous_contexts"]["raw"]["difference"] - of_seed["general_contexts"]["raw"]["difference"]
        for of_seed in values(finished).values()
    ]
    assert verdict.n == 2 and verdict.difference.mean == pytest.approx(sum(gaps) / 2)
