"""To how many different experts the sub-tokens of a word go.

    divergence(token) = mean over MoE layers of |{experts chosen by its h sub-tokens, k choices each}|

between k and h k; v1 Section 5.2 has h = 8, k = 1. A word is a run of letters with the marks and joiners that belong
to them, and with no letter, digit, underscore or apostrophe-and-letter at either end (so "don't" and "dog's" are left
out), in lower case and in Unicode's composed form. Letters and marks are Unicode's classes; its rule for word
boundaries (annex 29) would join "U.S.A" and cut Thai into single letters. Where there are no spaces between words
(Thai, Chinese), a word is a run of letters between two other signs, mostly a clause.

A word has the BPE tokens that overlap its characters. The rule for one of several: "mean", the mean of their
divergences (the default), or "last", that of the last token, the first with which the model has read the whole word.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import regex
from tokenizers import Tokenizer

from analysis.routing.text import Integers, Windows, distinct_experts, encode, end_of_text, route, windows_of_ids
from analysis.routing.words.comparison import WordValue
from mhmoe.data.batches import EvaluationSet
from mhmoe.model.language_model import MHMoEForCausalLM

_BESIDE = r"[\w\p{N}]"  # \w has letters, marks, joiners, decimal digits and the underscore
WORD = regex.compile(
    rf"(?<!{_BESIDE})(?<!{_BESIDE}['’])\p{{L}}[\p{{L}}\p{{M}}\p{{Join_Control}}]*+(?!{_BESIDE})(?!['’]{_BESIDE})"
)
Rule = Literal["mean", "last"]


def words_of(text: str) -> Iterator[tuple[str, int, int]]:
    """Every word of the text, as `word_form` writes it, with the characters [start, end) where it stands."""
    for match in WORD.finditer(text):
        yield word_form(match[0]), match.start(), match.end()


def word_form(word: str) -> str:
    """The one spelling under which a word is counted and looked up: lower case, accents composed with their letters."""
    return unicodedata.normalize("NFC", word.lower())


def tokens_of(offsets: Integers, start: int, end: int) -> range:
    """The tokens that overlap the characters [start, end). offsets [tokens, 2], as the tokenizer gives them."""
    first = int(np.searchsorted(offsets[:, 1], start, side="right"))
    return range(first, int(np.searchsorted(offsets[:, 0], end, side="left")))


def texts_of(text: EvaluationSet, tokenizer: Tokenizer) -> list[str]:
    """The documents of a packed split as text again."""
    documents = [text.tokens[a:b].tolist() for a, b in zip(text.offsets[:-1], text.offsets[1:], strict=True)]
    return tokenizer.decode_batch(documents, skip_special_tokens=False)


def token_divergence(
    model: MHMoEForCausalLM, windows: Windows, lengths: Sequence[int], *, batch_size: int = 32
) -> list[npt.NDArray[np.float64]]:
    """The divergence of every token of every document. lengths [documents], in tokens."""
    values = [np.full(length, np.nan) for length in lengths]
    for batch in route(model, windows, batch_size=batch_size):
        mean = sum(distinct_experts(layer).double() for layer in batch.routing) / len(batch.routing)
        divergence = mean.cpu().numpy()  # pyright: ignore[reportAttributeAccessIssue]  # there is a layer
        for row, document in enumerate(batch.document):
            here = batch.token[row] >= 0
            values[document][batch.token[row][here]] = divergence[row][here]
    return values


@dataclass(frozen=True, kw_only=True)
class TextCounts:
    """What was read: texts, their BPE tokens, occurrences of words, different words."""

    texts: int
    tokens: int
    occurrences: int
    distinct_words: int


class MeasuredWords(NamedTuple):
    text: TextCounts
    words: dict[str, WordValue]


def measure_words(
    model: MHMoEForCausalLM,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    length: int | None = None,
    rule: Rule = "mean",
    min_count: int = 5,
    max_words: int | None = 5000,
    begin: Sequence[int] | None = None,
    batch_size: int = 32,
) -> MeasuredWords:
    """Every word with at least `min_count` occurrences: occurrences, BPE tokens, divergence (means over them).

    length: of the windows; None is the model's context. max_words: the most frequent ones are kept.
    begin: the character of each text from which on words count; None takes all.
    Raises ValueError on an unknown rule, or if there is no text.
    """
    if rule not in ("mean", "last"):
        raise ValueError(f"rule={rule!r} is not known; choose mean or last")
    encodings = encode(texts, tokenizer)
    length = length or model.config.max_position_embeddings
    windows = windows_of_ids([e.ids for e in encodings], length, end_of_text(model))
    values = token_divergence(model, windows, [len(e) for e in encodings], batch_size=batch_size)
    found: dict[str, list[float]] = {}
    for text, first, encoding, value in zip(texts, begin or [0] * len(texts), encodings, values, strict=True):
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        for word, start, end in words_of(text):
            tokens = tokens_of(offsets, start, end)
            if start < first or not tokens:  # some tokenizers leave out what they have no token for
                continue
            sums = found.setdefault(word, [0, 0.0, 0.0])
            sums[0] += 1
            sums[1] += len(tokens)
            sums[2] += float(value[tokens[-1] if rule == "last" else list(tokens)].mean())
    frequent = sorted((w for w, sums in found.items() if sums[0] >= min_count), key=lambda w: (-found[w][0], w))
    kept = sorted(frequent[:max_words])
    return MeasuredWords(
        text=TextCounts(
            texts=len(texts),
            tokens=sum(len(e) for e in encodings),
            occurrences=int(sum(sums[0] for sums in found.values())),
            distinct_words=len(found),
        ),
        words={w: WordValue(int(n := found[w][0]), round(found[w][1] / n, 3), round(found[w][2] / n, 4)) for w in kept},
    )
