"""The same questions as of natural words, on a generated text whose truth is known (mhmoe/generated.py).

Natural words of several senses differ from others in much that no lexicon says. Here an ambiguous word and a general
one stand in as many topics and are as frequent; only the former has another sense in each. And it can be told
whether a model learned the senses at all, by what it says of the word that follows: one of FOLLOWERS words, equally
likely, which the sense determines.

A text is a paragraph, which has one topic. Words: ambiguous ones against all others that are heads, raw, and in
pairs matched by frequency, tokens, letters and number of topics. False cognates against true ones: heads of several
languages. In context (word_in_context.py): a word in two topics against one, for ambiguous words, whose sense
changes with the topic, and for general words, whose does not.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from analysis.group_comparison import compare_words
from analysis.polysemy import known_groups
from analysis.routed_text import encode, split_of_ids, untrained
from analysis.sub_tokens import Rule, measure_words, read_words, tokens_of
from analysis.word_in_context import compare_senses, contexts_of_generated, measure_contexts
from mhmoe.batches import IGNORE
from mhmoe.evaluation import token_nll
from mhmoe.generated import FOLLOWERS, GeneratedCorpus, Occurrence
from mhmoe.language_model import MHMoEForCausalLM


def measure_known_senses(
    model: MHMoEForCausalLM,
    tokenizer: Tokenizer,
    corpus: GeneratedCorpus,
    *,
    split: str,
    seed: int,
    rule: Rule,
    min_count: int,
    pairs: int,
) -> dict[str, Any]:
    """As JSON, with the keys of word_senses.measure_senses where it has them. seed: that the model started from.
    pairs: items in context, of each kind. Raises ValueError where the text is too short for them.

    words: as there; "part of speech" is the number of topics. senses, cognates: compare_words. ambiguous_contexts,
    general_contexts: compare_senses, where another topic stands for another sense. followers: `follower_losses`.
    """
    paragraphs = list(corpus.paragraphs_with_truth(split))
    texts = [text for text, _ in paragraphs]
    fresh = untrained(model, seed)
    options: dict[str, Any] = {"rule": rule, "min_count": min_count, "max_words": None}
    measured = measure_words(model, tokenizer, texts, **options)
    ours, before = read_words(measured), read_words(measure_words(fresh, tokenizer, texts, **options))
    topics = {word: str(len(several)) for word, several in corpus.topics_of().items()}
    groups, cognates = known_groups(ours, corpus.senses()), corpus.cognates()
    contexts: dict[str, Any] = {}
    for kind in ("ambiguous", "general"):
        words = [word for word, of in corpus.kinds().items() if of == kind]
        items = contexts_of_generated(paragraphs, words, pairs, seed=seed)
        found = [measure_contexts(of, tokenizer, items) for of in (model, fresh)]
        views = compare_senses(found[0], null=found[1])  # all are spelled alike here
        contexts[f"{kind}_contexts"] = {name: view for name, view in views.items() if not name.endswith("same_form")}
    return {
        "text": {name: measured[name] for name in ("texts", "tokens", "occurrences", "distinct_words")},
        "words": {
            word: [int(several), topics[word], *ours[word], before[word].value] for word, several in groups.items()
        },
        "senses": compare_words(ours, groups, topics, null=before),
        "cognates": compare_words(ours, {w: f for w, f in cognates.items() if w in ours}, topics, null=before),
        **contexts,
        "followers": follower_losses(model, tokenizer, paragraphs, corpus),
    }


def follower_losses(
    model: MHMoEForCausalLM,
    tokenizer: Tokenizer,
    paragraphs: Iterable[tuple[str, Sequence[Occurrence]]],
    corpus: GeneratedCorpus,
) -> dict[str, Any]:
    """Nats that the model spends on the word after a head, mean over heads in the second half of a paragraph, where
    the topic can be known: `ambiguous` and `general`.

    Beside it what these cost who knows the sense, `sense_known`, and who knows the language alone,
    `sense_unknown` (of the ambiguous words; the senses as frequent as they are in these paragraphs).
    """
    paragraphs, kinds = list(paragraphs), corpus.kinds()
    encodings = encode([text for text, _ in paragraphs], tokenizer)
    losses = _token_losses(model, [encoding.ids for encoding in encodings])
    spent: dict[str, list[float]] = {"ambiguous": [], "general": []}
    counts: dict[tuple[str, int], dict[int, int]] = {}
    for (text, occurrences), encoding, of_tokens in zip(paragraphs, encodings, losses, strict=True):
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        for word, start, end, sense, topic in occurrences:
            kind = kinds[word]
            if kind not in spent or start < len(text) / 2:
                continue
            follower = text[end + 1 :].split(" ", 1)[0].rstrip(".")
            tokens = tokens_of(offsets, end + 1, end + 1 + len(follower))
            spent[kind].append(float(of_tokens[tokens.start : tokens.stop].sum()))
            if kind == "ambiguous":
                of_word = counts.setdefault((word, topic % corpus.languages), {})
                of_word[sense] = of_word.get(sense, 0) + 1
    floor = math.log(FOLLOWERS)
    known = sum(sum(of_word.values()) for of_word in counts.values())
    missing = sum(n * math.log(sum(of_word.values()) / n) for of_word in counts.values() for n in of_word.values())
    return {
        "n": {kind: len(values) for kind, values in spent.items()},
        **{kind: float(np.mean(values)) for kind, values in spent.items() if values},
        "sense_known": floor,
        "sense_unknown": floor + missing / max(known, 1),
    }


@torch.no_grad()
def _token_losses(
    model: MHMoEForCausalLM, documents: Sequence[Sequence[int]], batch_size: int = 64
) -> list[npt.NDArray[np.float32]]:
    """Nats of every token of every document, given those before it."""
    split = split_of_ids(documents)
    inputs, targets, _ = split.windows(model.config.max_position_embeddings)
    device = next(model.parameters()).device
    found: list[npt.NDArray[np.float32]] = []
    for start in range(0, len(inputs), batch_size):
        here, wanted = (torch.from_numpy(array[start : start + batch_size]).to(device) for array in (inputs, targets))
        found.append(token_nll(model(here).logits, wanted).cpu().numpy()[wanted.cpu().numpy() != IGNORE])
    return np.split(np.concatenate(found), split.offsets[1:-1])
