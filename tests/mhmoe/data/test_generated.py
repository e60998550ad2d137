"""The generated text is what its truth says: senses decide followers, and nothing else does."""

import dataclasses
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest

from mhmoe.data.corpora import SPLITS, Corpus
from mhmoe.data.packing import PackingConfig, pack
from mhmoe.data.synthetic import GeneratedCorpus

SMALL = GeneratedCorpus(topics=4, headwords=60, documents_per_split=40, train_factor=2)


def _followers(corpus: GeneratedCorpus, split: str = "train") -> dict[str, dict[tuple[int, int], set[str]]]:
    """Head -> (sense, topic) -> the words that came after it."""
    found: dict[str, dict[tuple[int, int], set[str]]] = defaultdict(lambda: defaultdict(set))
    for document, occurrences in corpus.documents_with_truth(split):
        for occurrence in occurrences:
            after = document.text[occurrence.end :].split()[0].rstrip(".")
            found[occurrence.word][occurrence.sense, occurrence.topic].add(after)
    return found


def test_it_is_a_corpus_that_packs(tmp_path: Path) -> None:
    assert isinstance(SMALL, Corpus)
    packed = pack(SMALL, PackingConfig(vocab_size=320, max_train_tokens=5_000), tmp_path)
    assert len(packed.valid) == 40 and packed.fingerprint["corpus"] == SMALL.fingerprint()


def test_the_same_seed_gives_the_same_text_and_another_seed_another() -> None:
    texts = [d.text for d in SMALL.documents("valid")]
    assert texts == [d.text for d in dataclasses.replace(SMALL).documents("valid")]
    assert texts != [d.text for d in dataclasses.replace(SMALL, seed=1).documents("valid")]
    assert SMALL.fingerprint() != dataclasses.replace(SMALL, seed=1).fingerprint()


def test_a_fingerprint_has_the_names_that_records_have_and_gives_the_corpus_back() -> None:
    fingerprint = SMALL.fingerprint()
    assert fingerprint["heads"] == SMALL.headwords and "headwords" not in fingerprint
    assert GeneratedCorpus.from_fingerprint(fingerprint) == SMALL


def test_splits_share_no_document() -> None:
    texts = [d.text for split in SPLITS for d in SMALL.documents(split)]
    assert len(set(texts)) == len(texts) == 40 * (2 + 1 + 1)


def test_the_truth_names_every_head_where_it_stands() -> None:
    kinds = SMALL.kinds()
    for document, occurrences in SMALL.documents_with_truth("test"):
        assert all(document.text[o.start : o.end] == o.word for o in occurrences)
        words = document.text.replace(".", "").split()
        assert [word for word in words if kinds[word] != "follower"] == [o.word for o in occurrences]


def test_a_paragraph_has_one_topic_and_the_occurrences_of_its_part_of_the_document() -> None:
    documents = list(SMALL.documents_with_truth("test"))
    paragraphs = list(SMALL.paragraphs_with_truth("test"))
    assert [text for text, _ in paragraphs] == [part for d, _ in documents for part in d.text.split("\n")]
    for text, occurrences in paragraphs:
        assert len({o.topic for o in occurrences}) == 1
        assert all(text[o.start : o.end] == o.word for o in occurrences)
        assert all(o.topic in SMALL.topics_of()[o.word] for o in occurrences)
    assert sum(len(o) for _, o in paragraphs) == sum(len(o) for _, o in documents)


def test_a_fingerprint_gives_the_corpus_back_and_another_versions_is_refused() -> None:
    assert GeneratedCorpus.from_fingerprint(SMALL.fingerprint()) == SMALL
    with pytest.raises(ValueError, match="of no text that this version generates"):
        GeneratedCorpus.from_fingerprint(SMALL.fingerprint() | {"format": 0})


def test_an_ambiguous_words_followers_change_with_its_sense_and_other_words_with_nothing() -> None:
    kinds, senses, followers, found = SMALL.kinds(), SMALL.senses(), SMALL.followers(), _followers(SMALL)
    compared = {"ambiguous": 0, "general": 0, "diverse": 0}
    for word, uses in found.items():
        sets = list(uses.values())
        assert all(seen <= set(followers[word][sense]) for (sense, _), seen in uses.items())
        if kinds[word] == "ambiguous":
            assert all(not a & b for i, a in enumerate(sets) for b in sets[i + 1 :])
            compared["ambiguous"] += len(sets) > 1
        else:
            assert {sense for sense, _ in uses} == {0}
            compared[kinds[word]] = compared.get(kinds[word], 0) + (len(sets) > 1)
        assert len({sense for sense, _ in uses}) <= senses[word]
        assert (senses[word] > 1) == (kinds[word] == "ambiguous")
    assert min(compared[kind] for kind in ("ambiguous", "general", "diverse")) > 8


def test_a_diverse_word_has_the_followers_and_topics_of_an_ambiguous_one_and_a_general_word_fewer_followers() -> None:
    number: dict[str, list[tuple[int, int]]] = defaultdict(list)
    kinds, topics = SMALL.kinds(), SMALL.topics_of()
    for word, of_senses in SMALL.followers().items():
        number[kinds[word]].append((len(topics[word]), sum(map(len, of_senses))))
    assert number["diverse"] == number["ambiguous"]
    assert [n for n, _ in number["general"]] == [n for n, _ in number["ambiguous"]]
    assert {several for _, several in number["general"]} == {3} and {n for n, _ in number["local"]} == {1}


@pytest.mark.parametrize("kind", ["general", "diverse"])
def test_words_of_one_sense_are_about_as_frequent_as_ambiguous_ones(kind: str) -> None:
    count, kinds = defaultdict(int), SMALL.kinds()
    for _, occurrences in SMALL.documents_with_truth("train"):
        for occurrence in occurrences:
            count[kinds[occurrence.word]] += 1
    assert 0.6 < count["ambiguous"] / count[kind] < 1.6


def test_a_document_has_one_language_and_cognates_have_two() -> None:
    corpus = GeneratedCorpus(languages=2, topics=6, headwords=60, documents_per_split=30)
    languages = defaultdict(set)
    for document, occurrences in corpus.documents_with_truth("valid"):
        assert {f"language{o.topic % 2}" for o in occurrences} == {document.source}
        for occurrence in occurrences:
            languages[occurrence.word].add(occurrence.topic % 2)
    cognates, kinds = corpus.cognates(), corpus.kinds()
    assert set(cognates.values()) == {True, False}
    assert {word for word, spoken in languages.items() if len(spoken) > 1} <= cognates.keys()
    assert all(false == (kinds[word] == "ambiguous") for word, false in cognates.items())
    assert GeneratedCorpus().cognates() == {}


def test_paragraphs_and_sentences_are_as_many_as_said() -> None:
    document = next(GeneratedCorpus(paragraphs=2, sentences=3, documents_per_split=1).documents("test"))
    paragraphs = document.text.split("\n")
    assert [paragraph.count(".") for paragraph in paragraphs] == [3, 3]
    assert all(not a.endswith(" ") and not b.startswith(" ") for a, b in pairwise(paragraphs))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"languages": 9}, "topics=8 leave a language"),
        ({"most_senses": 1}, "most_senses=1"),
        ({"most_senses": 9}, "choose 2 to topics=8"),
        ({"headwords": 5}, "headwords=5 are too few"),
        ({"seed": -1}, "seed=-1"),
        ({"paragraphs": 0}, "paragraphs=0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GeneratedCorpus(**changes)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split='dev'"):
        next(SMALL.documents("dev"))
