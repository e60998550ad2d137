"""Words of several senses in one model: everything that Figure 7 shows, measured in one go.

The comparisons of the words of a text (by WordNet's senses, and false friends against all others) and of words
in context, each of the trained model, of the untrained one, and of what training changed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from analysis.routing.text import untrained
from analysis.routing.words.comparison import compare_words
from analysis.routing.words.in_context import compare_senses, measure_contexts, read_contexts
from analysis.routing.words.polysemy import (
    listed_groups,
    parts_of_speech,
    read_false_friends,
    read_senses,
    sense_groups,
)
from analysis.routing.words.sub_tokens import Rule, measure_words, read_words
from mhmoe.model.language_model import MHMoEForCausalLM


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
) -> dict[str, Any]:
    """As JSON. seed: that the model started from. language: of the false friends. The files and `many` as in
    polysemy.py and word_in_context.py, the rest as in sub_tokens.measure_words.

    words: {word: [group, part of speech, occurrences, BPE tokens, divergence, divergence before training]}, where
    group is 1 for several senses, 0 for one. senses, false_friends: compare_words. contexts: compare_senses.
    Raises UserError on a bad file.
    """
    senses, friends, items = read_senses(lexicon), read_false_friends(false_friends, language), read_contexts(contexts)
    fresh = untrained(model, seed)
    options: dict[str, Any] = {"rule": rule, "min_count": min_count, "max_words": max_words}
    measured = measure_words(model, tokenizer, texts, **options)
    ours, before = read_words(measured), read_words(measure_words(fresh, tokenizer, texts, **options))
    parts = parts_of_speech(ours, senses)
    groups = sense_groups(ours, senses, many=many)
    in_context = [measure_contexts(of, tokenizer, items) for of in (model, fresh)]
    return {
        "text": {name: measured[name] for name in ("texts", "tokens", "occurrences", "distinct_words")},
        "words": {
            word: [int(several), parts.get(word, ""), *ours[word], before[word].value]
            for word, several in groups.items()
        },
        "senses": compare_words(ours, groups, parts, null=before),
        "false_friends": compare_words(ours, listed_groups(ours, friends), parts, null=before),
        "contexts": compare_senses(in_context[0], null=in_context[1]),
    }
