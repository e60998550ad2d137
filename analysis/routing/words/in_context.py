"""One word in two contexts: do its sub-tokens go to other experts when it has another sense?

    changed(item) = share of (layer, sub-token, choice) slots of the word whose expert in the first context is
                    not among the top_k experts of the same layer and sub-token in the second

Between 0 (routed alike) and 1. The word's last token is compared, the first with which the (causal) model
has read the whole word. Two senses stand in two contexts, but so does one: what matters is whether `changed`
is larger where the senses differ. Beside the raw comparison stand these controls:

    same form       items whose word is spelled alike in both sentences, so that its tokens are the same
    beyond others   changed minus the mean over other words that stand in both sentences, once in each
    adjusted        the label's share in a least-squares fit on it and on: spelled alike, same token before the
                    word, distance between the two positions, the earlier position, number of tokens, share of
                    words that the sentences share
    untrained       the same items on a model before training, whose routers know no senses
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from analysis.routing.text import encode, end_of_text, route, windows_of_ids
from analysis.routing.words.comparison import Comparison, adjusted_difference, compare
from analysis.routing.words.polysemy import read_file
from analysis.routing.words.sub_tokens import tokens_of, word_form, words_of
from mhmoe.data.synthetic import Occurrence
from mhmoe.io import UserError
from mhmoe.model.language_model import MHMoEForCausalLM

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class WordInContext:
    """A word at characters [start, end) of two texts; same_sense is the label."""

    texts: tuple[str, str]
    spans: tuple[Span, Span]
    same_sense: bool


def read_contexts(path: Path) -> list[WordInContext]:
    """Items of the WiC data (Pilehvar and Camacho-Collados 2019) in SuperGLUE's schema, .jsonl or .jsonl.gz.

    Raises UserError, naming the line, on what is not such an item.
    """
    items: list[WordInContext] = []
    for number, line in enumerate(read_file(path).removesuffix("\n").split("\n"), 1):
        try:
            row = json.loads(line)
            items.append(
                WordInContext(
                    texts=(row["sentence1"], row["sentence2"]),
                    spans=((int(row["start1"]), int(row["end1"])), (int(row["start2"]), int(row["end2"]))),
                    same_sense={0: False, 1: True}[row["label"]],  # true and false are 1 and 0; a test split has -1
                )
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{path}, line {number}, is not a WiC item ({error!r}); fetch the file again") from None
    return items


def contexts_of_generated(
    paragraphs: Iterable[tuple[str, Sequence[Occurrence]]], words: Iterable[str], per_word: int, *, seed: int = 0
) -> list[WordInContext]:
    """Items from a generated text, whose truth is known: a word in two paragraphs, of one topic or of two.

    paragraphs: `GeneratedCorpus.paragraphs_with_truth`. A word stands where it stands last in a paragraph, in its
    second half, so that the topic can be known. The label is whether the topics are the same. For ambiguous words
    that is whether the senses are; for others the sense is one whatever the topic. per_word: items of each label.
    Raises ValueError if no word stands in paragraphs of two topics, twice in one of them.
    """
    places: dict[str, dict[int, list[tuple[str, Span]]]] = {word: {} for word in words}
    for paragraph, occurrences in paragraphs:
        last = {o.word: o for o in occurrences if o.word in places and in_second_half(o.start, paragraph)}
        for word, start, end, _, topic in last.values():
            places[word].setdefault(topic, []).append((paragraph, (start, end)))
    usable = [w for w, topics in sorted(places.items()) if len(topics) > 1 and max(map(len, topics.values())) > 1]
    if not usable:
        raise ValueError("no word stands in two topics, and twice in one of them; generate more text")
    draw = np.random.default_rng(seed)
    items: list[WordInContext] = []
    for word, same, _ in product(usable, (True, False), range(per_word)):
        topics = places[word]
        if same:
            often = [topic for topic, found in sorted(topics.items()) if len(found) > 1]
            found = topics[often[draw.integers(len(often))]]
            chosen = [found[i] for i in draw.choice(len(found), 2, replace=False)]
        else:
            two = draw.choice(sorted(topics), 2, replace=False)
            chosen = [topics[topic][draw.integers(len(topics[topic]))] for topic in two.tolist()]
        (a, span_a), (b, span_b) = chosen
        items.append(WordInContext(texts=(a, b), spans=(span_a, span_b), same_sense=same))
    return items


def in_second_half(start: int, paragraph: str) -> bool:
    """Whether a place in a generated paragraph has enough before it to tell the topic."""
    return start >= len(paragraph) / 2


@dataclass(frozen=True, kw_only=True)
class Contexts:
    """Of every item, a column a field.

    changed; others: mean `changed` of other shared words, nan if there are none; the controls: same_form, same_before
    (the token before the word is the same), distance (tokens between the two positions), position (the earlier),
    tokens (of the longer form), overlap (shared words / all words).
    """

    same_sense: npt.NDArray[np.bool_]
    changed: npt.NDArray[np.float64]
    others: npt.NDArray[np.float64]
    same_form: npt.NDArray[np.bool_]
    same_before: npt.NDArray[np.bool_]
    distance: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64]
    overlap: npt.NDArray[np.float64]

    def controls(self) -> npt.NDArray[np.float64]:
        """[items, controls]"""
        columns = (self.same_form, self.same_before, self.distance, self.position, self.tokens, self.overlap)
        return np.column_stack([column.astype(np.float64) for column in columns])


def measure_contexts(
    model: MHMoEForCausalLM, tokenizer: Tokenizer, items: Sequence[WordInContext], *, batch_size: int = 32
) -> Contexts:
    """Raises ValueError if a span has no token."""
    read = _read(model, tokenizer, items, batch_size)
    rows: list[dict[str, Any]] = []
    for item in items:
        sides = [read[text] for text in item.texts]
        places = _places(item, sides)
        forms = [word_form(text[slice(*span)]) for text, span in zip(item.texts, item.spans, strict=True)]
        words = [_words_once(text, span) for text, span in zip(item.texts, item.spans, strict=True)]
        shared = sorted(words[0].keys() & words[1].keys())
        others = [
            share_changed(
                *(side.experts[tokens_of(side.offsets, *of[word])[-1]] for side, of in zip(sides, words, strict=True))
            )
            for word in shared
        ]
        before = [side.ids[place[0] - 1] if place[0] else None for side, place in zip(sides, places, strict=True)]
        rows.append(
            {
                "same_sense": item.same_sense,
                "changed": _changed(sides, places),
                "others": round(float(np.mean(others)), 4) if others else math.nan,
                "same_form": forms[0] == forms[1],
                "same_before": before[0] == before[1],
                "distance": abs(places[0][-1] - places[1][-1]),
                "position": min(places[0][-1], places[1][-1]),
                "tokens": max(map(len, places)),
                "overlap": round(len(shared) / max(len(words[0].keys() | words[1].keys()), 1), 3),
            }
        )
    return Contexts(
        **{field.name: np.array([row[field.name] for row in rows]) for field in dataclasses.fields(Contexts)}
    )


def measure_changes(
    model: MHMoEForCausalLM, tokenizer: Tokenizer, items: Sequence[WordInContext], *, batch_size: int = 32
) -> list[float]:
    """`changed` of every item alone. Raises ValueError if a span has no token."""
    read = _read(model, tokenizer, items, batch_size)
    changes: list[float] = []
    for item in items:
        sides = [read[text] for text in item.texts]
        changes.append(_changed(sides, _places(item, sides)))
    return changes


class _RoutedText(NamedTuple):
    """A text that was read: ids [tokens], offsets [tokens, 2], experts [tokens, layers, rows, top_k]."""

    ids: Sequence[int]
    offsets: npt.NDArray[np.int64]
    experts: npt.NDArray[np.int64]


def _read(
    model: MHMoEForCausalLM, tokenizer: Tokenizer, items: Sequence[WordInContext], batch_size: int
) -> dict[str, _RoutedText]:
    """Every different text of the items, read once."""
    texts = list(dict.fromkeys(text for item in items for text in item.texts))
    encodings = encode(texts, tokenizer)
    windows = windows_of_ids([e.ids for e in encodings], model.config.max_position_embeddings, end_of_text(model))
    experts: list[npt.NDArray[np.int64]] = [np.empty(0, dtype=np.int64)] * len(encodings)
    for batch in route(model, windows, batch_size=batch_size):
        index = np.stack([layer.index.cpu().numpy() for layer in batch.routing], axis=2)
        for row, document in enumerate(batch.document):
            if not experts[document].size:
                experts[document] = np.full((len(encodings[document]), *index.shape[2:]), -1)
            here = batch.token[row] >= 0
            experts[document][batch.token[row][here]] = index[row][here]
    return {
        text: _RoutedText(encoding.ids, np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2), of_text)
        for text, encoding, of_text in zip(texts, encodings, experts, strict=True)
    }


def _places(item: WordInContext, sides: Sequence[_RoutedText]) -> list[range]:
    """The tokens of the item's word in its two texts."""
    places = [tokens_of(side.offsets, *span) for side, span in zip(sides, item.spans, strict=True)]
    if not all(places):
        raise ValueError(f"a span is without a token: {item.spans} of {item.texts}")
    return places


def _changed(sides: Sequence[_RoutedText], places: Sequence[range]) -> float:
    first, second = (side.experts[place[-1]] for side, place in zip(sides, places, strict=True))
    return round(share_changed(first, second), 4)


def share_changed(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> float:
    """Share of the slots of `first` whose expert is not among the choices of `second`. [layers, rows, top_k]."""
    return float(1 - (first[..., :, None] == second[..., None, :]).any(axis=-1).mean())


def _words_once(text: str, target: Span) -> dict[str, Span]:
    """The words that stand once in a text, without the target's place and form."""
    form = word_form(text[slice(*target)])
    found: dict[str, list[Span]] = {}
    for word, start, end in words_of(text):
        found.setdefault(word, []).append((start, end))
    return {word: places[0] for word, places in found.items() if len(places) == 1 and word != form}


def compare_senses(
    measured: Contexts, *, null: Contexts | None = None, resamples: int = 2000, seed: int = 0
) -> dict[str, Comparison]:
    """`changed` where the senses differ against where they are the same, by view: raw and with each control.

    A positive difference says that another sense means other experts. Items are the units. null: the same
    items measured on an untrained model; adds the views of it (`null_...`) and of trained - untrained
    (`change_...`).
    """
    result = _views(measured, "", resamples, seed)
    if null is not None:
        change = dataclasses.replace(
            measured, changed=measured.changed - null.changed, others=measured.others - null.others
        )
        result |= _views(null, "null_", resamples, seed) | _views(change, "change_", resamples, seed)
    return result


def _views(measured: Contexts, prefix: str, resamples: int, seed: int) -> dict[str, Comparison]:
    changed, same = measured.changed, measured.same_sense
    views = {
        "raw": (changed, np.ones_like(same)),
        "same_form": (changed, measured.same_form),
        "beyond_others": (changed - measured.others, np.isfinite(measured.others)),
    }
    found = {
        name: compare(value[use & ~same].tolist(), value[use & same].tolist(), resamples=resamples, seed=seed)
        for name, (value, use) in views.items()
    }
    found["adjusted"] = adjusted_difference(
        changed.tolist(), (~same).tolist(), measured.controls(), resamples=resamples, seed=seed
    )
    return {prefix + name: view for name, view in found.items()}
