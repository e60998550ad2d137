"""Text in many languages, mixed by exponentially smoothed sampling.

    p_i = n_i / sum_j n_j,   q_i = p_i^alpha / sum_j p_j^alpha

n_i is what language i has of training text and q_i its share of what is given: alpha = 1 leaves the
proportions as they are, alpha = 0 makes them equal. Lample & Conneau 2019 (arXiv 1901.07291, section 3.1),
whose data v1 follows: there n_i counts sentences and alpha is 0.7 for what the model is trained on, 0.5 for
what its vocabulary is learned from.

Departures: n_i counts characters, as these corpora are not divided into sentences; and nothing is drawn.
The next document is always one of the language that is furthest behind its share, so that every beginning
of the stream has the proportions q up to a document a language, and needs no seed. The vocabulary is learned
from the beginning of the same stream, with the same alpha.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from mhmoe.data.corpora import SPLITS, Document, check_split, order_key
from mhmoe.data.manifest import LOCAL, DataFolder
from mhmoe.data.tokenizer import WORDS_WITH_MARKS
from mhmoe.fields import Count, Range, check_fields
from mhmoe.io import UserError

XNLI_LANGUAGES = ("bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")
"""The paper's: XNLI's fifteen without Arabic."""


def smoothed(sizes: Mapping[str, int], alpha: float) -> dict[str, float]:
    """q_i of each language from its n_i > 0. Sums to 1."""
    total = sum(sizes.values())
    powers = {language: (size / total) ** alpha for language, size in sizes.items()}
    return {language: power / sum(powers.values()) for language, power in powers.items()}


def language_of(document_id: str) -> str:
    """ "de" of "de/mlqa_wiki/7", the id of a document of `MultilingualCorpus`.

    Raises ValueError if the id is not of that form.
    """
    language, _, rest = document_id.partition("/")
    if not language or "/" not in rest:
        raise ValueError(f"document id {document_id!r} names no language; expected language/source/id")
    return language


@dataclass(frozen=True, kw_only=True)
class LanguageStatistics:
    """A language's part of the training text. Units: characters, after the excluded sources are left out.

    by_source: its characters, source by source. share, sampled: p_i and q_i.
    """

    documents: int
    characters: int
    by_source: Mapping[str, int]
    share: float
    sampled: float

    def passes(self, stream_characters: int) -> float:
        """How often a stream of so many characters gives each document of the language; above 1 it repeats."""
        return self.sampled * stream_characters / self.characters


@dataclass(frozen=True, kw_only=True)
class MultilingualCorpus:
    """Files `<subfolder>/<language>-<split>.jsonl.gz` of a `DataFolder`, their lines with `text`, `source`, `id`.

    A document is named after its language: source "de/mlqa_wiki", id "de/mlqa_wiki/7" if the line's id is 7.

    train: languages in the proportions q, see above; within a language documents come in the order of a hash,
    another one in each pass. A language with less text than its share begins again before the others are
    through, and the stream ends when every document was given at least once.
    valid, test: the same number of characters of every language, whatever the beginning that is taken, up to
    one text; the end is where the first language has no more. Documents are cut into texts of at most
    `piece_characters`, where a line or a word ends if possible, so that a language is not judged by one
    long article; the id of a part ends in its number: "de/mlqa_wiki/7/0".

    path: the folder; None means the environment variable MHMOE_DATA.
    excluded_sources: what is left out of all splits. By default the courses translated by machine: they are
    no natural text, and since they say the same in every language but English, a perplexity on them would
    measure one technical text thirteen times. It costs bg, el, hi, tr and ur about half of their text.
    word_pattern: what the tokenizer takes for a word, see `tokenization`.
    """

    kind: ClassVar[str] = "multilingual"
    path: Path | None = None
    subfolder: str = "multilingual"
    languages: tuple[str, ...] = XNLI_LANGUAGES
    excluded_sources: tuple[str, ...] = ("ms_courses",)
    alpha: Annotated[float, Range(least=0, most=1)] = 0.7
    piece_characters: Count = 2000
    word_pattern: str = WORDS_WITH_MARKS
    order_seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("languages", "excluded_sources"):
            value: tuple[str, ...] = getattr(self, name)
            if len(set(value)) != len(value):
                raise ValueError(f"{name}={value} is not allowed; name each once")
            object.__setattr__(self, name, tuple(sorted(value)))  # their order means nothing
        if not self.languages:
            raise ValueError("languages=() is not allowed; name at least one")

    def documents(self, split: str) -> Iterator[Document]:
        """Raises UserError, naming file and line, on what is missing, changed or corrupt; and on a language
        of which the excluded sources leave nothing."""
        check_split(split)
        texts = self._texts(split)
        if split == "train":
            yield from _mixture(texts, smoothed(_characters(texts), self.alpha), self.order_seed)
        else:
            pieces = {language: self._pieces(documents) for language, documents in texts.items()}
            yield from in_turn(pieces)

    def statistics(self) -> dict[str, LanguageStatistics]:
        """What each language has of training text, and its share of the stream. Raises as `documents`."""
        texts = self._texts("train")
        sizes = _characters(texts)
        sampled = smoothed(sizes, self.alpha)
        found: dict[str, LanguageStatistics] = {}
        for language, documents in texts.items():
            by_source = Counter[str]()
            for document in documents:
                by_source[document.source.partition("/")[2]] += len(document.text)
            found[language] = LanguageStatistics(
                documents=len(documents),
                characters=sizes[language],
                by_source=dict(by_source.most_common()),
                share=sizes[language] / sum(sizes.values()),
                sampled=sampled[language],
            )
        return found

    def fingerprint(self) -> dict[str, Any]:
        """The files with their hashes, checked, and what is read of them in which proportions; and the kind of the
        folder, where it is none of natural text."""
        names = [self._name(language, split) for split in SPLITS for language in self.languages]
        folder = DataFolder.at(self.path)
        return {
            "kind": self.kind,
            "languages": list(self.languages),
            "excluded_sources": list(self.excluded_sources),
            "alpha": self.alpha,
            "piece_characters": self.piece_characters,
            "word_pattern": self.word_pattern,
            "order_seed": self.order_seed,
            "files": folder.checked(names),
            **({} if folder.kind == LOCAL else {"folder": folder.kind}),
        }

    def _name(self, language: str, split: str) -> str:
        return f"{self.subfolder}/{language}-{split}.jsonl.gz"

    def _texts(self, split: str) -> dict[str, list[Document]]:
        """What is read of each language, in the order of the first pass; no document is blank."""
        folder = DataFolder.at(self.path)
        texts: dict[str, list[Document]] = {}
        for language in self.languages:
            name = self._name(language, split)
            found: list[Document] = []
            for number, line in folder.lines(name):
                record = folder.parse(line, name, number)
                source = str(record.get("source", "unknown"))
                if source not in self.excluded_sources and record["text"].strip():
                    origin = f"{language}/{source}"
                    found.append(Document(record["text"], origin, f"{origin}/{record.get('id', number)}"))
            if not found:
                raise UserError(
                    f"{folder.path / name} has no text outside excluded_sources={self.excluded_sources}; "
                    "exclude less or leave the language out"
                )
            texts[language] = _in_order(found, self.order_seed, 0)
        return texts

    def _pieces(self, documents: Sequence[Document]) -> list[Document]:
        pieces: list[Document] = []
        for document in documents:
            parts = list(cut(document.text, self.piece_characters))
            ids = [f"{document.id}/{i}" for i in range(len(parts))] if len(parts) > 1 else [document.id]
            pieces += [Document(part, document.source, id_) for part, id_ in zip(parts, ids, strict=True)]
        return _in_order([piece for piece in pieces if piece.text.strip()], self.order_seed, 0)


def cut(text: str, size: int) -> Iterator[str]:
    """Parts of at most `size` characters that make up the text; they end with a line or a word if one is near."""
    while len(text) > size:
        near = (text.rfind(end, size // 2, size) + 1 for end in ("\n", " "))
        cut = next((place for place in near if place), size)
        yield text[:cut]
        text = text[cut:]
    yield text


def _characters(texts: Mapping[str, Sequence[Document]]) -> dict[str, int]:
    return {language: sum(len(d.text) for d in documents) for language, documents in texts.items()}


def _in_order(documents: Sequence[Document], seed: int, round_: int) -> list[Document]:
    return sorted(documents, key=lambda d: order_key(f"{seed}/{round_}/{d.id}"))


def _mixture(texts: Mapping[str, Sequence[Document]], shares: Mapping[str, float], seed: int) -> Iterator[Document]:
    """Languages in the proportion of their shares of characters, until every document was given."""
    given = dict.fromkeys(texts, 0)
    rounds = dict.fromkeys(texts, 0)
    left = {language: iter(documents) for language, documents in texts.items()}
    while True:
        language = min(given, key=lambda name: given[name] / shares[name])
        document = next(left[language], None)
        if document is None:
            rounds[language] += 1
            if min(rounds.values()) > 0:
                return
            left[language] = iter(_in_order(texts[language], seed, rounds[language]))
            continue
        given[language] += len(document.text)
        yield document


def in_turn(
    texts: Mapping[str, Iterable[Document]], size: Callable[[Document], float] = lambda document: len(document.text)
) -> Iterator[Document]:
    """Equally many characters of each, up to a document: the language that has given the fewest characters gives a
    document, until it has none. size: of a document, if it is not its characters."""
    given = dict.fromkeys(texts, 0.0)
    left = {language: iter(documents) for language, documents in texts.items()}
    while True:
        language = min(given, key=given.__getitem__)
        document = next(left[language], None)
        if document is None:
            return
        given[language] += size(document)
        yield document
