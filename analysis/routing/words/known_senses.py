"""The same questions as of natural words, on a generated text whose truth is known (mhmoe/data/synthetic.py).

Natural words of several senses differ from others in much that no lexicon says. Here an ambiguous word and a diverse
one have as many topics and followers and are as frequent; only of the former does the topic decide which followers.
Everything is read in the second half of a paragraph, where the topic can be known.

    words       divergence (sub_tokens.py) of ambiguous against diverse words, and of diverse against general ones,
                which have fewer followers; of false cognates against true ones, words that two languages share;
                matched by frequency, tokens, letters and number of topics
    in context  share of a word's sub-tokens that change their experts (in_context.py) between two paragraphs:
                of two topics against one; a word is a unit, its mean over pairs of paragraphs its value. The
                ambiguous words' difference stands beside that of the diverse ones, which is the topic's share
    senses      whether the model learned them: how often it gives the follower that stands in the text a higher
                likelihood than one of another sense in the same language; chance is a half
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from tokenizers import Tokenizer

from analysis.routing.text import encode, end_of_text, split_of_ids, untrained
from analysis.routing.words.comparison import Comparison, compare, compare_words
from analysis.routing.words.in_context import WordInContext, contexts_of_generated, in_second_half, measure_changes
from analysis.routing.words.senses import WordRouting, group_words
from analysis.routing.words.sub_tokens import Rule, measure_words, tokens_of
from analysis.statistics import CONFIDENCE
from mhmoe.data.batches import IGNORE
from mhmoe.data.synthetic import GeneratedCorpus, Kind, Occurrence
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.evaluation import token_nll

Paragraphs = Sequence[tuple[str, Sequence[Occurrence]]]


@dataclass(frozen=True, kw_only=True)
class ChoiceOfSense:
    """How often the right one of n pairs is likelier, with its 95% interval (Clopper-Pearson). margin: nats, mean."""

    n: int
    accuracy: float
    low: float
    high: float
    margin: float


@dataclass(frozen=True, kw_only=True)
class KnownSenses(WordRouting):
    """choices: whether the senses are learned, "trained" and "untrained"."""

    choices: dict[str, ChoiceOfSense]


def measure_known_senses(
    model: MHMoEForCausalLM,
    tokenizer: Tokenizer,
    corpus: GeneratedCorpus,
    *,
    split: str,
    seed: int,
    rule: Rule,
    min_count: int,
    per_word: int,
    choices: int,
    true_cognates: Kind,
) -> KnownSenses:
    """seed: that the model started from. rule, min_count: as in sub_tokens.measure_words. per_word: pairs of
    paragraphs, of each label. choices: at most so many between two followers. true_cognates: of this kind.

    The first group of words are the ambiguous ones, the second the diverse; matched by their number of topics.
    comparisons: senses, diversity, cognates (compare_words); ambiguous_contexts, diverse_contexts, contexts_beside.
    Raises ValueError if a paragraph is longer than the model's context, or the text too short for the pairs.
    """
    paragraphs = list(corpus.paragraphs_with_truth(split))
    texts = [text for text, _ in paragraphs]
    longest = max(len(encoding) for encoding in encode(texts, tokenizer))
    if longest > (context := model.config.max_position_embeddings):
        raise ValueError(f"a paragraph of {longest} tokens exceeds the model's context of {context}; generate shorter")
    fresh = untrained(model, seed)
    options: dict[str, Any] = {"rule": rule, "min_count": min_count, "max_words": None}
    options["begin"] = [-(-len(text) // 2) for text in texts]
    text, ours = measure_words(model, tokenizer, texts, **options)
    before = measure_words(fresh, tokenizer, texts, **options).words
    kinds, topics = corpus.kinds(), {word: str(len(several)) for word, several in corpus.topics_of().items()}

    def groups(first: Kind, second: Kind) -> dict[str, bool]:
        return {word: kinds[word] == first for word in ours if kinds[word] in (first, second)}

    senses = groups("ambiguous", "diverse")
    cognates = {
        word: false
        for word, false in corpus.cognates().items()
        if word in ours and (false or kinds[word] == true_cognates)
    }
    contexts: dict[Kind, dict[str, Pairs]] = {}
    for kind in ("ambiguous", "diverse"):
        items = contexts_of_generated(paragraphs, [word for word in kinds if kinds[word] == kind], per_word)
        changed = [measure_changes(of, tokenizer, items) for of in (model, fresh)]
        contexts[kind] = by_word(items, changed[0], changed[1])
    return KnownSenses(
        text=text,
        words=group_words(senses, topics, ours, before),
        comparisons={
            "senses": compare_words(ours, senses, topics, null=before),
            "diversity": compare_words(ours, groups("diverse", "general"), topics, null=before),
            "cognates": compare_words(ours, cognates, topics, null=before),
            "ambiguous_contexts": compare_topics(contexts["ambiguous"]),
            "diverse_contexts": compare_topics(contexts["diverse"]),
            "contexts_beside": compare_beside(contexts["ambiguous"], contexts["diverse"]),
        },
        choices={
            name: choice_of_sense(of, tokenizer, paragraphs, corpus, choices)
            for name, of in (("trained", model), ("untrained", fresh))
        },
    )


# ---- in context ------------------------------------------------------------------------------


class Pairs(NamedTuple):
    """Of one word: mean share that changed in pairs of two topics and of one, trained and untrained."""

    two_topics: float
    one_topic: float
    null_two_topics: float
    null_one_topic: float


def by_word(items: Sequence[WordInContext], changed: Sequence[float], null: Sequence[float]) -> dict[str, Pairs]:
    """Mean `changed` of every word's items, by their label, of the trained model and of the untrained one."""
    found: dict[str, tuple[list[float], ...]] = {}
    for item, ours, before in zip(items, changed, null, strict=True):
        of_word = found.setdefault(item.texts[0][slice(*item.spans[0])], ([], [], [], []))
        of_word[int(item.same_sense)].append(ours)
        of_word[2 + int(item.same_sense)].append(before)
    return {word: Pairs(*(float(np.mean(values)) for values in several)) for word, several in found.items()}


def compare_topics(words: Mapping[str, Pairs]) -> dict[str, Comparison]:
    """Two topics against one, word by word; of the trained model, the untrained one, and what training changed."""
    several = list(words.values())
    return {
        "raw": compare([w.two_topics for w in several], [w.one_topic for w in several], paired=True),
        "null_raw": compare([w.null_two_topics for w in several], [w.null_one_topic for w in several], paired=True),
        "change_raw": compare(
            [w.two_topics - w.null_two_topics for w in several],
            [w.one_topic - w.null_one_topic for w in several],
            paired=True,
        ),
    }


def compare_beside(first: Mapping[str, Pairs], second: Mapping[str, Pairs]) -> dict[str, Comparison]:
    """What two topics change more than one, of the first words against the second."""
    ours, null = (
        [[side(w) for w in words.values()] for words in (first, second)]
        for side in (lambda w: w.two_topics - w.one_topic, lambda w: w.null_two_topics - w.null_one_topic)
    )
    change = [np.subtract(of, before).tolist() for of, before in zip(ours, null, strict=True)]
    return {"raw": compare(*ours), "null_raw": compare(*null), "change_raw": compare(*change)}


# ---- whether the senses are learned ----------------------------------------------------------


def choice_of_sense(
    model: MHMoEForCausalLM, tokenizer: Tokenizer, paragraphs: Paragraphs, corpus: GeneratedCorpus, most: int
) -> ChoiceOfSense:
    """How often an ambiguous word's follower is likelier than one of another sense that the word has in the same
    language, after the text up to the word; the same choices for every model. Raises ValueError without any choice.
    """
    draw = np.random.default_rng(0)
    questions: list[tuple[str, str, str]] = []
    topics, followers = corpus.topics_of(), corpus.followers()
    for text, occurrences in paragraphs:
        for word, start, end, sense, topic in occurrences:
            language = corpus.language_of(topic)
            others = [s for s, t in enumerate(topics[word]) if s != sense and corpus.language_of(t) == language]
            if len(followers[word]) == 1 or not others or not in_second_half(start, text):
                continue
            wrong = followers[word][others[draw.integers(len(others))]]
            right = text[end + 1 :].split(" ", 1)[0].rstrip(".\n")
            questions.append((text[:end], right, wrong[draw.integers(len(wrong))]))
    if not questions:
        raise ValueError("no ambiguous word has two senses in a language; generate more topics or words")
    chosen = [questions[i] for i in np.linspace(0, len(questions) - 1, min(most, len(questions))).round().astype(int)]
    encodings = encode([f"{before} {follower}" for before, *pair in chosen for follower in pair], tokenizer)
    losses = token_losses(model, [encoding.ids for encoding in encodings])
    nats: list[float] = []
    for i, encoding in enumerate(encodings):
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        begin = len(chosen[i // 2][0]) + 1
        nats.append(float(losses[i][tokens_of(offsets, begin, int(offsets[-1, 1])).start :].sum()))
    margins = np.array(nats[1::2]) - np.array(nats[::2])
    right = int((margins > 0).sum())
    interval = stats.binomtest(right, len(margins)).proportion_ci(CONFIDENCE, method="exact")
    return ChoiceOfSense(
        n=len(margins),
        accuracy=right / len(margins),
        low=float(interval.low),
        high=float(interval.high),
        margin=float(margins.mean()),
    )


@torch.no_grad()
def token_losses(
    model: MHMoEForCausalLM, documents: Sequence[Sequence[int]], batch_size: int = 64
) -> list[npt.NDArray[np.float32]]:
    """Nats of every token of every document, given those before it in its window."""
    split = split_of_ids(documents, end_of_text(model))
    inputs, targets, _ = split.windows(model.config.max_position_embeddings)
    device = next(model.parameters()).device
    found: list[npt.NDArray[np.float32]] = []
    for start in range(0, len(inputs), batch_size):
        here, wanted = (torch.from_numpy(array[start : start + batch_size]).to(device) for array in (inputs, targets))
        found.append(token_nll(model(here).logits, wanted).cpu().numpy()[wanted.cpu().numpy() != IGNORE])
    return np.split(np.concatenate(found), split.offsets[1:-1])
