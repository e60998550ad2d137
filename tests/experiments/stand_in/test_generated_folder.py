"""The generated data folder: whoever knows the rules of its text answers all, whoever knows nothing is at chance."""

import dataclasses
import shutil
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate

from analysis.routing.words.in_context import read_contexts
from analysis.routing.words.polysemy import read_false_friends, read_senses
from analysis.zero_shot.answers import Scores, summarise
from analysis.zero_shot.harness import load_tasks, quiet, to_item
from analysis.zero_shot.tasks import find
from experiments.catalog import pages
from experiments.scales import SCALES
from experiments.stand_in.folder import CONTEXTS, FALSE_FRIENDS, LEXICON, GeneratedFolder
from mhmoe.data.corpora import SPLITS
from mhmoe.data.manifest import DataFolder
from mhmoe.data.multilingual import XNLI_LANGUAGES, MultilingualCorpus
from mhmoe.data.partly_synthetic import PartlyGeneratedCorpus
from mhmoe.data.synthetic import GeneratedCorpus
from mhmoe.io import UserError
from tests.questions import MADE

ENGLISH, LANGUAGES = MADE.english, MADE.multilingual
TASKS = ("english", "xnli_en")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MADE.at(tmp_path_factory.mktemp("cache"))


# ---- what is right ---------------------------------------------------------------------------


class Oracle(LM):
    """Reads text, and knows for every topic which words may follow its heads there, by the rules of `generated`."""

    def __init__(self) -> None:
        super().__init__()
        self.rules: list[dict[str, set[str]]] = []
        for corpus in (ENGLISH, LANGUAGES):
            kinds, topics, followers = corpus.kinds(), corpus.topics_of(), corpus.followers()
            self.rules += [
                {
                    head: set(followers[head][topics[head].index(topic) if kinds[head] == "ambiguous" else 0])
                    for head in topics
                    if topic in topics[head]
                }
                for topic in range(corpus.topics)
            ]
        self.heads = {head for rules in self.rules for head in rules}
        self.followers = {word for rules in self.rules for several in rules.values() for word in several}

    def pairs(self, text: str) -> list[tuple[str, str]]:
        words = "".join(c if c.isalpha() else " " for c in text).split()
        known = [word for word in words if word in self.heads | self.followers]
        return [(a, b) for a, b in pairwise(known) if a in self.heads and b in self.followers]

    def possible(self, text: str) -> bool:
        pairs = self.pairs(text)
        return any(all(b in rules.get(a, ()) for a, b in pairs) for rules in self.rules)

    def is_true(self, task: str, number: int, context: str, answer: str) -> bool:
        if task in ("rte", "boolq"):
            return self.possible(context) is (answer.strip() in ("True", "yes"))
        if task.startswith("xnli"):  # its choices are yes, also, no
            *before, last = self.pairs(answer)
            return number == (2 if not self.possible(answer) else 0 if last in before else 1)
        return self.possible(context + answer)

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        return [(0.0 if self.is_true(r.task_name, r.idx, *r.args) else -50.0, False) for r in requests]

    def loglikelihood_rolling(self, requests: list[Any]) -> Any: ...

    def generate_until(self, requests: list[Any]) -> Any: ...


class Ignorant(Oracle):
    """All answers are alike to it."""

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        return [(-1.0, False) for _ in requests]


@pytest.fixture(scope="module")
def loaded(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with quiet():
        return load_tasks(find(TASKS), folder, tmp_path_factory.mktemp("tasks"))[0]


def scores(lm: LM, loaded: dict[str, Any]) -> dict[str, Scores]:
    with quiet():
        results: Any = evaluate(lm, {"tasks": loaded}, bootstrap_iters=0)
    samples = results["samples"]
    return {t.name: summarise([to_item(t, loaded[t.name], s) for s in samples[t.name]]) for t in find(TASKS)}


def test_who_knows_the_rules_of_the_text_answers_every_question(loaded: dict[str, Any]) -> None:
    found = scores(Oracle(), loaded)
    assert {name: values.n for name, values in found.items()} == dict.fromkeys(found, 24)
    for name, values in found.items():
        assert {accuracy.value for accuracy in values.accuracies.values()} == {1.0}, name


def test_who_finds_all_answers_alike_is_right_as_often_as_chance(loaded: dict[str, Any]) -> None:
    for name, values in scores(Ignorant(), loaded).items():
        if name != "truthfulqa_mc1":  # whose right answer always stands first: that is its format
            assert values.accuracies["acc"].value == pytest.approx(values.chance), name
        assert values.finer["advantage"].value == pytest.approx(0, abs=1) and values.majority in (None, 0.5)


def senses_seen() -> dict[str, set[frozenset[str]]]:
    """English head -> its senses in the English texts, each as all words that the rules let follow."""
    seen: dict[str, set[frozenset[str]]] = defaultdict(set)
    followers = ENGLISH.followers()
    for split in SPLITS:
        for document, occurrences in ENGLISH.documents_with_truth(split):
            for o in occurrences if document.source == "language0" else ():
                after = document.text[o.end :].split()[0].rstrip(".")
                seen[o.word].add(next(frozenset(sense) for sense in followers[o.word] if after in sense))
    return seen


def test_the_lexicon_counts_the_senses_that_the_english_text_shows(folder: Path) -> None:
    lexicon, seen = read_senses(folder / LEXICON), senses_seen()
    assert {word: entry.total for word, entry in lexicon.items()} == {
        word: len(senses) for word, senses in seen.items() if len(word) > 4
    }
    assert {entry.total for entry in lexicon.values()} >= {1, 3} and {e.part for e in lexicon.values()} == {"noun"}


def test_false_friends_are_followed_by_other_words_in_the_other_language(folder: Path) -> None:
    false, true = (read_false_friends(folder / FALSE_FRIENDS, "en", relation=r) for r in ("false_friend", "cognate"))
    kinds, topics = ENGLISH.kinds(), ENGLISH.topics_of()
    shared = {word for word, several in topics.items() if {topic % 2 for topic in several} == {0, 1} and len(word) > 4}
    assert false | true == shared and false == {word for word in shared if kinds[word] == "ambiguous"}


def test_a_word_in_context_has_one_sense_where_one_senses_words_follow(folder: Path) -> None:
    items, followers = read_contexts(folder / CONTEXTS), ENGLISH.followers()
    assert len(items) >= 20 and {item.same_sense for item in items} == {True, False}
    for item in items:
        (word,) = {text[slice(*span)] for text, span in zip(item.texts, item.spans, strict=True)}
        after = [text[end:].split()[0].rstrip(".") for text, (_, end) in zip(item.texts, item.spans, strict=True)]
        first, second = ([w in sense for sense in followers[word]].index(True) for w in after)
        assert item.same_sense is (first == second)


# ---- the folder ------------------------------------------------------------------------------


def test_every_measurement_and_the_languages_find_their_files_in_it(folder: Path) -> None:
    listed = DataFolder.at(folder)
    for measurement in {m.name: m for page in pages().values() for m in page.measurements}.values():
        for file in measurement.files_at("smoke"):
            listed.hash_of(file)
    languages = MultilingualCorpus(path=folder)
    assert languages.fingerprint()["folder"] == listed.kind == "generated"
    for split in SPLITS:
        assert {document.id[:2] for document in languages.documents(split)} == set(XNLI_LANGUAGES)


def test_it_is_made_once_and_the_same_everywhere(folder: Path, tmp_path: Path) -> None:
    before = (folder / "manifest.json").stat().st_mtime_ns
    assert MADE.at(folder.parent) == folder and (folder / "manifest.json").stat().st_mtime_ns == before
    again = MADE.at(tmp_path)
    assert again.name == folder.name
    assert (again / "manifest.json").read_bytes() == (folder / "manifest.json").read_bytes()
    assert dataclasses.replace(MADE, items=12).fingerprint() != MADE.fingerprint()
    assert [path.name for path in tmp_path.iterdir()] == [again.name]


def test_damage_to_it_is_said_in_one_line_and_what_to_remove(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / folder.name)
    (tmp_path / folder.name / LEXICON).write_bytes(b"")
    with pytest.raises(
        UserError, match=rf"sense_counts\S+ is damaged: .*; remove \S+{folder.name}, which is generated"
    ):
        MADE.at(tmp_path)


def test_too_few_languages_are_refused() -> None:
    with pytest.raises(ValueError, match="multilingual has languages=2"):
        GeneratedFolder(english=ENGLISH, multilingual=ENGLISH)
    with pytest.raises(ValueError, match="english has languages=1"):
        GeneratedFolder(english=GeneratedCorpus(), multilingual=LANGUAGES)


def test_the_smoke_scale_reads_the_text_that_its_questions_are_about() -> None:
    smoke = SCALES["smoke"]
    corpus = smoke.corpus()
    assert smoke.stand_in is not None and isinstance(corpus, PartlyGeneratedCorpus)
    assert corpus.generated == smoke.stand_in.english
    assert [name for name, scale in SCALES.items() if scale.stand_in is not None] == ["smoke"]
