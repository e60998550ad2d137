"""python -m analysis.routing.words.word_list CHECKPOINT --words FILE --text FILE: do listed words diverge more?

The paper's comparison (v1 Section 5.2) with any list of words, such as its own from GPT-4: the words of the list
against all other words of a text, raw and in pairs matched by frequency, BPE tokens and letters (and part of
speech, with a lexicon). Prints one table in Markdown; what is measured is in sub_tokens.py.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import tyro
from tokenizers import Tokenizer
from tyro.conf import Positional

from analysis.routing.text import check_unicode, load_checkpoint, untrained
from analysis.routing.words.comparison import Comparison, WordValue, compare_words
from analysis.routing.words.polysemy import (
    Senses,
    listed_groups,
    parts_of_speech,
    read_file,
    read_senses,
    read_word_list,
)
from analysis.routing.words.sub_tokens import Rule, measure_words
from analysis.tables import Column, Row, table_markdown
from mhmoe.cli import exit_code
from mhmoe.io import UserError
from mhmoe.model.language_model import MHMoEForCausalLM

COLUMNS = (
    Column("view", "view"),
    Column("n", "words"),
    Column("first", "listed", ".3f"),
    Column("second", "others", ".3f"),
    Column("difference", "difference", "+.4f"),
    Column("cohens_d", "Cohen's d", "+.3f"),
    Column("d_low", "95% from", "+.3f"),
    Column("d_high", "to", "+.3f"),
    Column("p_value", "p", ".4f"),
)
_EXPLAINED = (
    "Different experts that a word's sub-tokens go to, mean over MoE layers. matched: pairs of a listed and another "
    "word, alike in frequency, tokens and letters (and part of speech, with a lexicon). null: the untrained model. "
    "change: trained less untrained. Intervals by bootstrap over words, p by permutation."
)


def read_texts(path: Path) -> list[str]:
    """A text file as one document; of a .jsonl file the `text` of every line. Either may end in .gz.

    Raises UserError if the file cannot be read, has no text, or is JSON by another name.
    """
    kinds = {suffix.lower() for suffix in path.suffixes}
    if kinds & {".json", ".ndjson"}:
        raise UserError(f"{path} is JSON and would be read as text; give JSON lines named .jsonl")
    whole = read_file(path)
    texts = [whole] if ".jsonl" not in kinds else list[str]()
    for number, line in enumerate(whole.split("\n") if not texts else (), 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError, RecursionError):
            text = None
        if not isinstance(text, str):
            raise UserError(f"{path}, line {number}: every line must be a JSON object with a text; check the file")
        check_unicode(text, f"{path}, line {number}: the text")
        texts.append(text)
    if not any(text.strip() for text in texts):
        raise UserError(f"{path} has no text; give a file with some")
    return texts


def compare_list(
    model: MHMoEForCausalLM,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    listed: set[str],
    senses: Mapping[str, Senses],
    *,
    seed: int | None,
    rule: Rule,
    min_count: int,
) -> dict[str, Comparison]:
    """`compare_words` of the listed words and all others. senses: of a lexicon, or none. seed: that the model's
    training started from, for the null of the untrained model; None leaves it out.

    Raises UserError if fewer than two of the words, or of the others, stand in the text often enough.
    """

    def measured(of: MHMoEForCausalLM) -> dict[str, WordValue]:
        return measure_words(of, tokenizer, texts, rule=rule, min_count=min_count, max_words=None).words

    words = measured(model)
    groups = listed_groups(words, listed)
    if min(count := sum(groups.values()), len(groups) - count) < 2:
        raise UserError(
            f"{count} listed words and {len(groups) - count} others stand in the text {min_count} times or more; two "
            "of each are needed: give more text, another list or a lower --min-count"
        )
    null = None if seed is None else measured(untrained(model, seed))
    return compare_words(words, groups, parts_of_speech(words, senses), null=null)


def run(
    checkpoint: Positional[Path],
    words: Path,
    text: Path,
    lexicon: Path | None = None,
    seed: int | None = None,
    rule: Rule = "mean",
    min_count: int = 5,
) -> None:
    """Compare listed words with all others: different experts that their sub-tokens go to.

    Args:
        checkpoint: folder of a model and its tokenizer, as save_pretrained writes it.
        words: a text file with the words, one or many a line; lines that begin with # are comments.
        text: what the model reads: a text file, or .jsonl with a `text` on each line; either may be .gz.
        lexicon: a table of WordNet's sense counts, to match parts of speech too.
        seed: that the model's training started from; the untrained model then stands beside it.
        rule: of a word of several tokens: the mean of them, or the last.
        min_count: words that stand in the text less often are left out.
    """
    for option, value, least in (("min_count", min_count, 1), ("seed", seed, 0)):
        if value is not None and value < least:
            raise UserError(f"{option}={value} is not allowed; it must be at least {least}")
    senses = {} if lexicon is None else read_senses(lexicon)
    listed, texts = read_word_list(words), read_texts(text)
    model, tokenizer = load_checkpoint(checkpoint)
    found = compare_list(model, tokenizer, texts, listed, senses, seed=seed, rule=rule, min_count=min_count)
    rows = [_row(view, compared) for view, compared in found.items()]
    sys.stdout.write(table_markdown(COLUMNS, rows, caption=[_EXPLAINED]))


def _row(view: str, found: Comparison) -> Row:
    first, second = found.mean or (None, None)
    return {**vars(found), "view": view, "n": " / ".join(map(str, found.n)), "first": first, "second": second}


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_code(lambda: tyro.cli(run, prog="python -m analysis.routing.words.word_list", args=arguments))


if __name__ == "__main__":
    sys.exit(main())
