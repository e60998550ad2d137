"""A generated text whose truth is known: which words have several senses, and which sense stands where.

The text is a chain of pairs, headword then follower; a follower is drawn from the few that belong to the headword's
sense, so that whoever predicts it has to know the sense. A paragraph has one topic, and a topic its own headwords:

    local       in one topic, one sense
    general     in several topics, one sense: its followers are the same everywhere
    diverse     as general, but with as many followers as an ambiguous word has in all
    ambiguous   in several topics, another sense in each: other followers

Diverse words are what ambiguous ones are compared with: they have as many topics and followers and are as frequent
(by turns, they have neighbouring ranks); but the topic does not decide between their followers. Topics are shared
out to languages; a document has one language. An ambiguous word with senses in two languages is a false cognate,
another word in two of them a true one.
Frequencies within a topic follow Zipf's law.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np

from mhmoe.data.corpora import Document, check_split
from mhmoe.fields import Count, Range, check_fields

Kind = Literal["local", "general", "diverse", "ambiguous", "follower"]
_FORMAT = 2  # of the generator: part of the fingerprint, so that another rule is another corpus
_FOLLOWERS = 3  # of a sense, equally likely
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


class Occurrence(NamedTuple):
    """A headword at characters [start, end) of a document's text. Senses are counted from 0."""

    word: str
    start: int
    end: int
    sense: int
    topic: int


class _Headword(NamedTuple):
    word: str
    kind: Kind
    topics: tuple[int, ...]
    followers: tuple[tuple[str, ...], ...]
    """Of each sense."""


class _World(NamedTuple):
    headwords: tuple[_Headword, ...]
    by_topic: tuple[tuple[int, ...], ...]
    """Heads of each topic, the most frequent first."""


@dataclass(frozen=True, kw_only=True)
class GeneratedCorpus:
    """A `Corpus` drawn from a seed; numpy promises the numbers of RandomState for all versions.

    Of the headwords, a quarter are of each kind. documents_per_split: valid and test; train has
    `train_factor` times as many. A document has `paragraphs` paragraphs of `sentences` sentences of 4 to 7 pairs.
    Raises ValueError for sizes that do not fit together.
    """

    kind: ClassVar[str] = "generated"
    seed: Annotated[int, Range(least=0, below=2**32)] = 0
    languages: Count = 1
    topics: int = 8
    headwords: int = 360
    most_senses: int = 4
    documents_per_split: Count = 60
    train_factor: Count = 10
    paragraphs: Count = 3
    sentences: Count = 4

    def __post_init__(self) -> None:
        check_fields(self)
        if self.topics < self.languages:
            raise ValueError(f"topics={self.topics} leave a language of {self.languages} without one; take more")
        if not 2 <= self.most_senses <= self.topics:
            raise ValueError(f"most_senses={self.most_senses} is not allowed; choose 2 to topics={self.topics}")
        if self.headwords < 4 * self.topics:
            raise ValueError(
                f"headwords={self.headwords} are too few; {self.topics} topics need at least {4 * self.topics}"
            )

    def documents(self, split: str) -> Iterator[Document]:
        """Raises ValueError on an unknown split."""
        for document, _ in self.documents_with_truth(split):
            yield document

    def documents_with_truth(self, split: str) -> Iterator[tuple[Document, list[Occurrence]]]:
        """Each document with every headword in it, in order. Raises ValueError on an unknown split."""
        check_split(split)
        world = _world(self)
        draw = np.random.RandomState([self.seed, *split.encode()])
        for i in range(self.documents_per_split * (self.train_factor if split == "train" else 1)):
            language = int(draw.randint(self.languages))
            text, occurrences = "", list[Occurrence]()
            for paragraph in range(self.paragraphs):
                topic = int(draw.choice(np.array(self.topics_in(language))))
                text += "\n" if paragraph else ""
                for sentence in range(self.sentences):
                    text += " " if sentence else ""
                    text = _sentence(world, topic, draw, text, occurrences)
            yield Document(text, f"language{language}", f"{split}-{i}"), occurrences

    def paragraphs_with_truth(self, split: str) -> Iterator[tuple[str, list[Occurrence]]]:
        """The same, paragraph by paragraph: one topic each. Raises ValueError on an unknown split."""
        for document, occurrences in self.documents_with_truth(split):
            begin = 0
            for text in document.text.split("\n"):
                end = begin + len(text)
                inside = [o for o in occurrences if begin <= o.start < end]
                yield text, [o._replace(start=o.start - begin, end=o.end - begin) for o in inside]
                begin = end + 1

    def fingerprint(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        return {"kind": self.kind, "format": _FORMAT, "heads": fields.pop("headwords"), **fields}  # as of old

    @classmethod
    def from_fingerprint(cls, fingerprint: Mapping[str, Any]) -> "GeneratedCorpus":
        """The corpus that has this fingerprint. Raises ValueError if none of this version has."""
        keys = {field.name: field.name for field in dataclasses.fields(cls)} | {"headwords": "heads"}
        corpus = cls(**{name: fingerprint[key] for name, key in keys.items() if key in fingerprint})
        if corpus.fingerprint() != dict(fingerprint):
            raise ValueError(f"fingerprint={dict(fingerprint)} is of no text that this version generates")
        return corpus

    def senses(self) -> dict[str, int]:
        """The number of senses of every headword."""
        return {headword.word: len(headword.followers) for headword in _world(self).headwords}

    def topics_of(self) -> dict[str, tuple[int, ...]]:
        """The topics in which every headword stands."""
        return {headword.word: headword.topics for headword in _world(self).headwords}

    def followers(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        """The words that may follow every headword, of each of its senses."""
        return {headword.word: headword.followers for headword in _world(self).headwords}

    def followers_in(self, topic: int) -> dict[str, tuple[str, ...]]:
        """The headwords of a topic, the most frequent first, each with the words that may follow it there."""
        world = _world(self)
        return {
            headword.word: headword.followers[headword.topics.index(topic) if headword.kind == "ambiguous" else 0]
            for headword in (world.headwords[i] for i in world.by_topic[topic])
        }

    def topics_in(self, language: int) -> range:
        return range(language, self.topics, self.languages)

    def language_of(self, topic: int) -> int:
        return topic % self.languages

    def kinds(self) -> dict[str, Kind]:
        """What every word is: the headwords by their kind, all others "follower"."""
        headwords = _world(self).headwords
        kinds: dict[str, Kind] = {}
        for word in sorted({word for headword in headwords for sense in headword.followers for word in sense}):
            kinds[word] = "follower"
        for headword in headwords:
            kinds[headword.word] = headword.kind
        return kinds

    def cognates(self) -> dict[str, bool]:
        """Every headword that several languages have: whether it is a false cognate (True) or a true one."""
        return {
            headword.word: headword.kind == "ambiguous"
            for headword in _world(self).headwords
            if len({self.language_of(topic) for topic in headword.topics}) > 1
        }


@cache
def _world(corpus: GeneratedCorpus) -> _World:
    """The vocabulary: drawn once from the seed, the same for all splits."""
    draw = np.random.RandomState([corpus.seed, 0])
    words = _spellings(draw, corpus.headwords + max(60, corpus.headwords // 3))
    spelled, pool = words[: corpus.headwords], np.array(words[corpus.headwords :])
    kinds: tuple[Kind, ...] = ("local", "general", "diverse", "ambiguous")
    headwords: list[_Headword] = []
    for number, word in enumerate(spelled):
        kind = kinds[number % len(kinds)]
        # General, diverse and ambiguous words that come after each other stand in equally many topics.
        spread = 1 if kind == "local" else 2 + number // len(kinds) % (corpus.most_senses - 1)
        topics = draw.choice(corpus.topics, spread, replace=False)
        count = _FOLLOWERS * (spread if kind in ("diverse", "ambiguous") else 1)
        followers = draw.choice(pool, count, replace=False).reshape(spread if kind == "ambiguous" else 1, -1)
        headwords.append(
            _Headword(word, kind, tuple(map(int, topics)), tuple(tuple(map(str, sense)) for sense in followers))
        )
    by_topic = tuple(
        tuple(i for i, headword in enumerate(headwords) if t in headword.topics) for t in range(corpus.topics)
    )
    return _World(tuple(headwords), by_topic)


def _spellings(draw: np.random.RandomState, count: int) -> list[str]:
    """Different words of two to four syllables, in the order in which they were drawn."""
    syllables = [c + v for c in _CONSONANTS for v in _VOWELS]
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(draw.choice(syllables, draw.randint(2, 5)))] = None
    return list(found)


def _sentence(world: _World, topic: int, draw: np.random.RandomState, text: str, occurrences: list[Occurrence]) -> str:
    """`text` with one more sentence of the topic; its headwords are added to `occurrences`."""
    headwords = world.by_topic[topic]
    frequency = 1 / (np.arange(len(headwords)) + 3.0)
    pairs = int(draw.randint(4, 8))
    for i, place in enumerate(draw.choice(len(headwords), pairs, p=frequency / frequency.sum())):
        headword = world.headwords[headwords[place]]
        sense = headword.topics.index(topic) if headword.kind == "ambiguous" else 0
        text += " " if i else ""
        occurrences.append(Occurrence(headword.word, len(text), len(text) + len(headword.word), sense, topic))
        followers = headword.followers[sense]
        text += f"{headword.word} {followers[int(draw.randint(len(followers)))]}"
    return f"{text}."
