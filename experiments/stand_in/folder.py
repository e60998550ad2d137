"""A data folder whose questions and lexicons are about generated texts, for where no other is given.

It is laid out as a folder of natural data: harness/<task>/ and harness/wic/ (see analysis/zero_shot/tasks.py),
multilingual/<language>-<split>.jsonl.gz with a generated language in the place of each, and lexicons/. Its manifest
says that it is "generated", and so do the values that are measured with it and the fingerprint of its text.
"""

import dataclasses
import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.routing.words.in_context import contexts_of_generated
from analysis.routing.words.polysemy import PARTS
from analysis.zero_shot.tasks import ENGLISH, XNLI
from experiments.stand_in import questions as generated_questions
from mhmoe.data.corpora import SPLITS
from mhmoe.data.manifest import GENERATED, DataFolder
from mhmoe.data.multilingual import XNLI_LANGUAGES
from mhmoe.data.partly_synthetic import LANGUAGE
from mhmoe.data.synthetic import GeneratedCorpus
from mhmoe.io import UserError, new_folder, sha256_of, write_atomically

LEXICON = "lexicons/wordnet_sense_counts.tsv.gz"
FALSE_FRIENDS = "lexicons/false_friends.tsv"
CONTEXTS = "harness/wic/validation.jsonl.gz"
_FORMAT = 1  # of the folder: part of its name in the cache, so that another rule is another folder
_FOREIGN = "de"  # what the language beside the English one of `english` is called
_SHORTEST = 5  # letters of a word in the lexicons: shorter ones may be words of English prose as well


@dataclass(frozen=True, kw_only=True)
class GeneratedFolder:
    """english: the text that the English questions, contexts and lexicons are about, in its first language.
    multilingual: that of the languages, one for each of XNLI's. items: of each task.

    Raises ValueError if there are too few languages.
    """

    english: GeneratedCorpus
    multilingual: GeneratedCorpus
    items: int = 48
    contexts_per_word: int = 2

    def __post_init__(self) -> None:
        for name, least in (("english", 2), ("multilingual", len(XNLI_LANGUAGES))):
            if (languages := getattr(self, name).languages) < least:
                raise ValueError(f"{name} has languages={languages}, which are too few; take at least {least}")

    def fingerprint(self) -> dict[str, Any]:
        corpora = {name: getattr(self, name).fingerprint() for name in ("english", "multilingual")}
        return {"kind": GENERATED, "format": _FORMAT} | dataclasses.asdict(self) | corpora

    def at(self, cache: Path) -> Path:
        """The folder, written into `cache` now or earlier, and whole.

        Raises UserError if it cannot be written, or was damaged since.
        """
        mark = self.fingerprint()
        folder = cache / hashlib.sha256(json.dumps(mark, sort_keys=True).encode()).hexdigest()[:16]
        if not folder.exists():
            with new_folder(folder) as new:
                files: list[dict[str, str]] = []
                for name, content in self._files():
                    write_atomically(new / name, content)
                    files.append({"file": name, "sha256": sha256_of(new / name)})
                write_atomically(new / "manifest.json", json.dumps({**mark, "files": files}, indent=1) + "\n")
        try:
            found = DataFolder.at(folder)
            for name in found.sha256:
                found.hash_of(name)
        except UserError as error:
            raise UserError(f"{error}; remove {folder}, which is generated anew") from None
        return folder

    def _files(self) -> Iterator[tuple[str, bytes]]:
        """Name and content of every file but the manifest."""
        asked = generated_questions.english(self.english, LANGUAGE, self.items)
        for name, of_task in {task.file: task.folder for task in ENGLISH}.items():  # two tasks share TruthfulQA's file
            yield name, _lines(asked[of_task])
        for language, task in enumerate(XNLI):
            yield task.file, _lines(generated_questions.xnli(self.multilingual, language, self.items))
        yield CONTEXTS, _lines(self._contexts())
        yield LEXICON, _packed(_table(("lemma", *(f"{part}_senses" for part in PARTS)), self._senses()))
        yield FALSE_FRIENDS, _table(("lang_a", "lang_b", "word_a", "word_b", "relation"), self._cognates())
        for split in SPLITS:
            texts: dict[str, list[dict[str, Any]]] = {language: [] for language in XNLI_LANGUAGES}
            for document in self.multilingual.documents(split):
                language = XNLI_LANGUAGES[int(document.source.removeprefix("language"))]
                texts[language].append({"text": document.text, "source": GENERATED, "id": document.id})
            for language, found in texts.items():
                yield f"multilingual/{language}-{split}.jsonl.gz", _lines(found)

    def _contexts(self) -> Iterator[Mapping[str, Any]]:
        """An ambiguous word in two English paragraphs."""
        paragraphs = [
            (text, found)
            for text, found in self.english.paragraphs_with_truth("valid")
            if self.english.language_of(found[0].topic) == LANGUAGE
        ]
        words = [word for word, kind in self.english.kinds().items() if kind == "ambiguous"]
        for i, item in enumerate(contexts_of_generated(paragraphs, words, self.contexts_per_word)):
            (start1, end1), (start2, end2) = item.spans
            yield {
                "word": item.texts[0][start1:end1],
                "sentence1": item.texts[0],
                "sentence2": item.texts[1],
                "start1": start1,
                "start2": start2,
                "end1": end1,
                "end2": end2,
                "idx": i,
                "label": int(item.same_sense),
            }

    def _senses(self) -> Iterator[tuple[str, ...]]:
        """The heads of the English topics, with their senses there, as nouns."""
        kinds = self.english.kinds()
        for word, topics in self.english.topics_of().items():
            here = sum(self.english.language_of(topic) == LANGUAGE for topic in topics)
            if here and len(word) >= _SHORTEST:
                yield word, str(here if kinds[word] == "ambiguous" else 1), "0", "0", "0"

    def _cognates(self) -> Iterator[tuple[str, ...]]:
        for word, false in self.english.cognates().items():
            if len(word) >= _SHORTEST:
                yield "en", _FOREIGN, word, word, "false_friend" if false else "cognate"


def _lines(documents: Iterable[Mapping[str, Any]]) -> bytes:
    return _packed("".join(json.dumps(document, ensure_ascii=False) + "\n" for document in documents).encode())


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> bytes:
    return "".join("\t".join(row) + "\n" for row in (columns, *rows)).encode()


def _packed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)
