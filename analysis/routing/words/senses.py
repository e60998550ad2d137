"""Words of several senses in one model: everything that Figure 7 shows, measured in one go.

The comparisons of the words of a text (by WordNet's senses, and false friends against all others) and of words
in context, each of the trained model, of the untrained one, and of what training changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from analysis.results import Result
from analysis.routing.text import untrained
from analysis.routing.words.comparison import Comparison, WordValue, compare_words
from analysis.routing.words.in_context import compare_senses, measure_contexts, read_contexts
from analysis.routing.words.polysemy import (
    listed_groups,
    parts_of_speech,
    read_false_friends,
    read_senses,
    sense_groups,
)
from analysis.routing.words.sub_tokens import Rule, TextCounts, measure_words
from mhmoe.model.language_model import MHMoEForCausalLM


@dataclass(frozen=True, kw_only=True)
class GroupedWords:
    """Words of two groups, a column a field.

    first: whether a word is of the first group. part: its part of speech, or what else it is matched by. count:
    occurrences; tokens: its BPE tokens. trained, untrained: its divergence, of the model and of the one before
    training.
    """

    word: list[str]
    first: list[bool]
    part: list[str]
    count: list[int]
    tokens: list[float]
    trained: list[float]
    untrained: list[float]


@dataclass(frozen=True, kw_only=True)
class WordRouting(Result):
    """text: what was read. words: those of the comparison "senses". comparisons: by what is compared, then by view."""

    text: TextCounts
    words: GroupedWords
    comparisons: dict[str, dict[str, Comparison]]


def group_words(
    groups: Mapping[str, bool],
    parts: Mapping[str, str],
    trained: Mapping[str, WordValue],
    untrained: Mapping[str, WordValue],
) -> GroupedWords:
    return GroupedWords(
        word=[*groups],
        first=[*groups.values()],
        part=[parts.get(word, "") for word in groups],
        count=[trained[word].count for word in groups],
        tokens=[trained[word].tokens for word in groups],
        trained=[trained[word].value for word in groups],
        untrained=[untrained[word].value for word in groups],
    )


def measure_senses(
    model: MHMoEForCausalLM,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    seed: int,
    lexicon: Path,
    false_friends: Path,
    contexts: Path,
    language: str,
    many: int,
    rule: Rule,
    min_count: int,
    max_words: int,
) -> WordRouting:
    """seed: that the model started from. language: of the false friends. The files and `many` as in
    polysemy.py and in_context.py, the rest as in sub_tokens.measure_words.

    The first group of words are those of several senses. comparisons: senses, false_friends (compare_words), contexts
    (compare_senses). Raises UserError on a bad file.
    """
    senses, friends, items = read_senses(lexicon), read_false_friends(false_friends, language), read_contexts(contexts)
    fresh = untrained(model, seed)
    options: dict[str, Any] = {"rule": rule, "min_count": min_count, "max_words": max_words}
    text, ours = measure_words(model, tokenizer, texts, **options)
    before = measure_words(fresh, tokenizer, texts, **options).words
    parts = parts_of_speech(ours, senses)
    groups = sense_groups(ours, senses, many=many)
    in_context = [measure_contexts(of, tokenizer, items) for of in (model, fresh)]
    return WordRouting(
        text=text,
        words=group_words(groups, parts, ours, before),
        comparisons={
            "senses": compare_words(ours, groups, parts, null=before),
            "false_friends": compare_words(ours, listed_groups(ours, friends), parts, null=before),
            "contexts": compare_senses(in_context[0], null=in_context[1]),
        },
    )
