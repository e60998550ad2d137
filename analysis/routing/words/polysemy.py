"""Which words are said to have several senses: lexicons and lists, and the rules by which they are read.

WordNet sense counts. A word is looked up as it is, in lower case, and only if it is not there by its base
form: the first of these endings, replaced in order, that gives a lemma of the lexicon (WordNet's own rules,
`morphy`, without its list of irregular forms): nouns -ses -xes -zes -ches -shes -men -ies -s, verbs -ies -es
-ed -ing, adjectives -er -est. It has several senses with at least `many` (3), one sense with exactly 1; two
senses, and words that are not in the lexicon, are left out. So are the closed classes of English (the, as,
can, ...): WordNet lists them as letters, units and elements alone, and they are a text's most frequent words.

Lists of words (false friends; or any text file, such as the paper's from GPT-4, see word_list.py): the first group
is the list and the second all other words of the text, which is the paper's comparison.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from analysis.routing.words.sub_tokens import word_form, words_of
from mhmoe.io import UserError

PARTS = ("noun", "verb", "adj", "adv")
MANY = 3
_ENDINGS = (
    ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y"), ("s", ""),
    ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", ""),
    ("er", ""), ("est", ""), ("er", "e"), ("est", "e"),
)  # fmt: skip
_CLOSED = """
    a an the this that these those each every either neither some any no all both half such what which whose who
    whom whoever whatever whichever i me my mine myself you your yours yourself he him his himself she her hers herself
    it its itself we us our ours ourselves they them their theirs themselves one ones none nobody nothing somebody
    something someone anybody anything anyone everybody everything everyone and or but nor so yet for if unless until
    while whereas because since although though as than whether when where why how in on at by to of from with without
    within into onto upon off over under above below between among against about around through during before after
    behind beside besides beyond along across toward towards up down out near per via am is are was were be been being
    have has had having do does did doing done can could may might must shall should will would ought not never too
    very also then there here now just only even still more most less least much many few several own same other
    another
"""
CLOSED_CLASS = frozenset(_CLOSED.split())


@dataclass(frozen=True)
class Senses:
    """The number of senses of a lemma in each part of speech, in the order of PARTS."""

    by_part: tuple[int, int, int, int]

    @property
    def total(self) -> int:
        return sum(self.by_part)

    @property
    def part(self) -> str:
        """The part of speech with the most senses; the first of PARTS among equals."""
        return PARTS[self.by_part.index(max(self.by_part))]


def read_senses(path: Path) -> dict[str, Senses]:
    """Lemma -> its senses, from a table (.tsv or .tsv.gz) with columns lemma, noun_senses, ..., adv_senses.

    Lemmas are put in lower case (spellings that differ in case alone add up). Raises UserError on a bad file.
    """
    columns = [f"{part}_senses" for part in PARTS]
    sums: dict[str, list[int]] = {}
    for number, row in _table(path, ("lemma", *columns)):
        try:
            counts = [int(row[column]) for column in columns]
        except ValueError:
            raise UserError(f"{path}, line {number}: sense counts must be whole numbers; fetch it again") from None
        entry = sums.setdefault(word_form(row["lemma"]), [0, 0, 0, 0])
        entry[:] = [a + b for a, b in zip(entry, counts, strict=True)]
    return {lemma: Senses((n, v, a, r)) for lemma, (n, v, a, r) in sums.items()}


def lemma_of(word: str, lexicon: Mapping[str, Senses]) -> str | None:
    """The word itself, or its base form by the rule above; None if neither is in the lexicon."""
    if word in lexicon:
        return word
    for ending, replacement in _ENDINGS:
        stem = word.removesuffix(ending)
        if stem != word and len(stem) > 1 and stem + replacement in lexicon:
            return stem + replacement
    return None


def sense_groups(words: Iterable[str], lexicon: Mapping[str, Senses], *, many: int = MANY) -> dict[str, bool]:
    """Word -> True with at least `many` senses, False with exactly one; others are left out."""
    if many < 2:
        raise ValueError(f"many={many} is not allowed; it must be at least 2, as 1 is the other group")
    groups: dict[str, bool] = {}
    for word in words:
        lemma = None if word in CLOSED_CLASS else lemma_of(word, lexicon)
        if lemma is not None and (lexicon[lemma].total == 1 or lexicon[lemma].total >= many):
            groups[word] = lexicon[lemma].total > 1
    return groups


def listed_groups(words: Iterable[str], listed: Iterable[str], others: Iterable[str] | None = None) -> dict[str, bool]:
    """Word -> True if it is listed, False if it is one of `others` (None: every other word)."""
    first = {word_form(word) for word in listed}
    second = None if others is None else {word_form(word) for word in others}
    return {word: word in first for word in words if word in first or second is None or word in second}


def parts_of_speech(words: Iterable[str], lexicon: Mapping[str, Senses]) -> dict[str, str]:
    """Word -> its main part of speech by the lexicon; words that are not in it are left out."""
    lemmas = {word: lemma_of(word, lexicon) for word in words}
    return {word: lexicon[lemma].part for word, lemma in lemmas.items() if lemma is not None}


def read_false_friends(
    path: Path, language: str, *, other: str | None = None, relation: str = "false_friend"
) -> set[str]:
    """The words of one language that look like words of another but mean something else, in lower case.

    other: only pairs with this language. relation: "cognate" gives the pairs that do mean the same, where
    the file has them. Columns: lang_a, lang_b, word_a, word_b, relation. Raises UserError on a bad file, and
    if the language is in none of its pairs.
    """
    found: set[str] = set()
    for _, row in _table(path, ("lang_a", "lang_b", "word_a", "word_b", "relation")):
        for here, there in (("a", "b"), ("b", "a")):
            pair = row[f"lang_{here}"] == language and other in (None, row[f"lang_{there}"])
            if pair and row["relation"] == relation:
                found.add(word_form(row[f"word_{here}"]))
    if not found:
        raise UserError(f"{path} has no {relation} of {language}{f' and {other}' if other else ''}; name another")
    return found


def read_word_list(path: Path) -> set[str]:
    """Any list of words: what words a text file has, one or many a line; lines that begin with # are comments.

    Words are found as in texts (see sub_tokens.py), so commas and numbers between them do not matter.
    Raises UserError if the file cannot be read or has no word.
    """
    lines = [line for line in read_file(path).splitlines() if not line.lstrip().startswith("#")]
    if not (words := {word for line in lines for word, _, _ in words_of(line)}):
        raise UserError(f"{path} has no words; give a text file with a word on each line")
    return words


def read_file(path: Path) -> str:
    """A text file, perhaps .gz, in UTF-8 with or without a byte order mark. Raises UserError if it cannot be read."""
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if path.suffix.lower() == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}; check the path") from None


def _table(path: Path, columns: tuple[str, ...]) -> Iterable[tuple[int, dict[str, str]]]:
    """Line number and cells of every line of a tab-separated file that has (at least) these columns."""
    reader = csv.DictReader(io.StringIO(read_file(path)), delimiter="\t", quoting=csv.QUOTE_NONE)
    if missing := [column for column in columns if column not in (reader.fieldnames or ())]:
        raise UserError(f"{path} has no column {missing[0]}; it needs {', '.join(columns)}, separated by tabs")
    try:
        for row in reader:
            if any(row[column] is None for column in columns):
                raise UserError(f"{path}, line {reader.line_num}, is cut short; fetch it again")
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}, is no line of a table ({error}); fetch it again") from None
