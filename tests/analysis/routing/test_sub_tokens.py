"""Words find their tokens, groups their words; a difference is found where one was planted, and only there."""

import dataclasses
import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from analysis.routing.text import encode, untrained
from analysis.routing.words.comparison import (
    WordValue,
    adjusted_difference,
    compare,
    compare_words,
    matched_pairs,
    matching_key,
)
from analysis.routing.words.in_context import (
    Contexts,
    WordInContext,
    compare_senses,
    contexts_of_generated,
    measure_changes,
    measure_contexts,
    read_contexts,
    share_changed,
)
from analysis.routing.words.polysemy import (
    Senses,
    lemma_of,
    listed_groups,
    parts_of_speech,
    read_false_friends,
    read_senses,
    read_word_list,
    sense_groups,
)
from analysis.routing.words.sub_tokens import Rule, measure_words, texts_of, tokens_of, words_of
from mhmoe.commands.routed import routed_tokens
from mhmoe.data.packing import PackedDataset
from mhmoe.data.synthetic import GeneratedCorpus
from mhmoe.io import UserError
from tests import tiny

TEXT = "The bada's molíku isn't x2 a_b — Bada; bada"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    return tiny.text(tmp_path_factory.mktemp("packed"))


# ---- words ----------------------------------------------------------------------------------


def test_words_are_runs_of_letters_that_touch_nothing_else() -> None:
    assert [word for word, _, _ in words_of(TEXT)] == ["the", "molíku", "bada", "bada"]
    assert all(TEXT[start:end].lower() == word for word, start, end in words_of(TEXT))


@pytest.mark.parametrize(
    ("string", "words"),
    [
        ("हिन्दी में, वज्र।", ["हिन्दी", "में", "वज्र"]),
        ("ภาษาไทย ที่นี่", ["ภาษาไทย", "ที่นี่"]),
        ("پیش\u200cکش فوراً", ["پیش\u200cکش", "فوراً"]),
        ("Cafe\u0301 caf\u00e9", ["caf\u00e9", "caf\u00e9"]),
        ("Tie\u0302\u0301ng Vie\u0323\u0302t", ["ti\u1ebfng", "vi\u1ec7t"]),
        ("中文词。", ["中文词"]),
    ],
    ids=["Hindi", "Thai", "joiner", "accents", "Vietnamese", "Chinese"],
)
def test_marks_belong_to_the_letters_of_a_word(string: str, words: list[str]) -> None:
    assert [word for word, _, _ in words_of(string)] == words


@pytest.mark.parametrize(
    ("string", "words"),
    [
        ("Don't, the dog’s well-known U.S.A; 'quoted' rock'n'roll", ["the", "well", "known", "u", "s", "a", "quoted"]),
        ("x2 2x a_b _c 3rd m² yes", ["yes"]),
        ("हिन्दी's हिन्दी2 \u0301 अ'हिन्दी", []),
    ],
    ids=["apostrophes and hyphens", "digits", "beside marks"],
)
def test_what_touches_a_digit_or_an_apostrophe_and_letter_is_no_word(string: str, words: list[str]) -> None:
    assert [word for word, _, _ in words_of(string)] == words


def test_a_listed_word_is_found_in_either_spelling_of_its_accent(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("cafe\u0301\n")
    assert read_word_list(tmp_path / "list.txt") == {"caf\u00e9"}
    assert listed_groups(["caf\u00e9", "the"], ["Cafe\u0301"]) == {"caf\u00e9": True, "the": False}


def test_matched_words_are_as_long_as_a_reader_counts() -> None:
    assert matching_key("मेरी", WordValue(4, 2.0, 1.0), "")[2] == matching_key("my", WordValue(4, 2.0, 1.0), "")[2]


def test_a_words_tokens_spell_the_word(text: PackedDataset) -> None:
    (encoding,) = encode([TEXT], text.tokenizer)
    offsets = np.array(encoding.offsets)
    for word, start, end in words_of(TEXT):
        ids = [encoding.ids[i] for i in tokens_of(offsets, start, end)]
        assert text.tokenizer.decode(ids).strip().lower() == word


def test_a_packed_split_is_read_as_the_text_it_was(text: PackedDataset) -> None:
    expected = [document.text for document in tiny.ZipfText().documents("valid")]
    assert texts_of(text.valid, text.tokenizer) == expected


@pytest.mark.parametrize("rule", ["mean", "last"])
def test_a_words_divergence_is_that_of_a_loop(rule: str, text: PackedDataset) -> None:
    model = tiny.model("mhmoe_parameters", num_hidden_layers=4).eval()
    texts = [*[document.text for document in tiny.ZipfText().documents("valid")][:3], "molíku Bada"]
    length = 16
    expected: dict[str, list[tuple[int, float]]] = {}
    for string in texts:
        (encoding,) = encode([string], text.tokenizer)
        stream, values = [0, *encoding.ids], []
        for start in range(0, len(stream), length):
            with torch.no_grad():
                routing = model(torch.tensor([stream[start : start + length]]), output_routing=True).routing
            for position in range(len(stream[start : start + length])):
                reached = [len(set(layer.index[0, position].flatten().tolist())) for layer in routing]
                values.append(sum(reached) / len(reached))
        values = values[1:]
        for word, start, end in words_of(string):
            own = [v for v, (a, b) in zip(values, encoding.offsets, strict=True) if a < end and b > start]
            expected.setdefault(word, []).append((len(own), own[-1] if rule == "last" else sum(own) / len(own)))
    measured = measure_words(model, text.tokenizer, texts, length=length, rule=rule, min_count=1)  # pyright: ignore
    words = measured.words
    assert words.keys() == expected.keys()
    for word, occurrences in expected.items():
        tokens, value = np.mean(occurrences, axis=0)
        assert words[word] == (len(occurrences), pytest.approx(tokens, abs=1e-3), pytest.approx(value, abs=1e-4))


def test_words_before_the_beginning_that_is_named_do_not_count(text: PackedDataset) -> None:
    model, texts = tiny.model("mhmoe_parameters").eval(), ["ba be bi ba", "be ba"]
    measured = measure_words(model, text.tokenizer, texts, min_count=1, begin=[4, 3])
    assert {word: found.count for word, found in measured.words.items()} == {"bi": 1, "ba": 2}


def test_rare_words_are_left_out_and_the_most_frequent_kept(text: PackedDataset) -> None:
    model = tiny.model("xmoe").eval()
    measured = measure_words(model, text.tokenizer, ["a b a c b a d"], min_count=2, max_words=1)
    assert measured.words == {"a": (3, pytest.approx(1, abs=1), 1.0)}
    assert (measured.text.distinct_words, measured.text.occurrences) == (4, 7)
    with pytest.raises(ValueError, match="rule='first'"):
        measure_words(model, text.tokenizer, ["a"], rule="first")  # pyright: ignore[reportArgumentType]


# ---- lists ----------------------------------------------------------------------------------

LEXICON = """lemma\tnoun_senses\tverb_senses\tadj_senses\tadv_senses\ttotal_senses
bank\t10\t8\t0\t0\t18
church\t1\t0\t0\t0\t1
City\t1\t0\t0\t0\t1
city\t0\t0\t2\t0\t2
hope\t1\t2\t0\t0\t3
piano\t1\t0\t1\t0\t2
the\t1\t0\t0\t0\t1
quark\t1\t0\t0\t0\t1
"""


@pytest.fixture
def lexicon(tmp_path: Path) -> dict[str, Senses]:
    path = tmp_path / "senses.tsv.gz"
    path.write_bytes(gzip.compress(LEXICON.encode()))
    return read_senses(path)


def test_words_are_grouped_by_the_senses_of_their_lemma(lexicon: dict[str, Senses]) -> None:
    words = ("banks", "churches", "city", "hoping", "hoped", "piano", "the", "quark", "unknown", "s")
    expected = {"banks": True, "churches": False, "city": True, "hoping": True, "hoped": True, "quark": False}
    assert sense_groups(words, lexicon) == expected
    assert sense_groups(words, lexicon, many=2) == expected | {"piano": True}
    assert lemma_of("cities", lexicon) == "city" and lemma_of("unknown", lexicon) is None
    assert parts_of_speech(words, lexicon)["hoping"] == "verb" and lexicon["city"].part == "adj"
    with pytest.raises(ValueError, match="many=1"):
        sense_groups(words, lexicon, many=1)


def test_listed_words_are_compared_with_all_others_or_with_a_second_list(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("# from a model\n1. Bank, spring\nfair\n")
    assert read_word_list(path) == {"bank", "spring", "fair"}
    path.write_text("\ufeff# from a model\n1. Bank, spring\nfair\n", encoding="utf-8")  # as some editors save it
    assert read_word_list(path) == {"bank", "spring", "fair"}
    assert listed_groups(["bank", "tree"], read_word_list(path)) == {"bank": True, "tree": False}
    assert listed_groups(["bank", "tree", "sky"], ["bank"], ["sky"]) == {"bank": True, "sky": False}


def test_false_friends_are_those_of_the_language_and_relation(tmp_path: Path) -> None:
    path = tmp_path / "friends.tsv"
    rows = ["lang_a\tlang_b\tword_a\tword_b\trelation", "en\tde\tGift\tGift\tfalse_friend"]
    rows += ["bg\tru\tмайка\tмайка\tfalse_friend", "bg\tru\tясно\tясно\tcognate", "en\tda\tbad\tbad\tfalse_friend"]
    path.write_text("\n".join(rows) + "\n")
    assert read_false_friends(path, "en") == {"gift", "bad"}
    assert read_false_friends(path, "en", other="da") == {"bad"}
    assert read_false_friends(path, "de") == {"gift"}
    assert read_false_friends(path, "ru", relation="cognate") == {"ясно"}
    with pytest.raises(UserError, match="no false_friend of sw"):
        read_false_friends(path, "sw")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("lemma\tnoun_senses\nbank\t1\n", "no column verb_senses"),
        (LEXICON + "odd\tx\t0\t0\t0\t0\n", "line 10: sense counts"),
        (LEXICON + "short\t1\n", "line 10, is cut short"),
    ],
)
def test_a_damaged_lexicon_is_named_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "senses.tsv"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_senses(path)


def test_a_missing_or_empty_list_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*No such file"):
        read_word_list(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(UserError, match="has no words"):
        read_word_list(tmp_path / "empty.txt")


# ---- comparing ------------------------------------------------------------------------------


def number(found: float | None) -> float:
    """What must be known."""
    assert found is not None
    return found


def _words(planted: float, seed: int = 0, count: int = 400) -> tuple[dict[str, WordValue], dict[str, bool]]:
    """Values that rise with frequency, on which the first group has more of; `planted` is added to that group."""
    draw = np.random.RandomState(seed)
    words, groups = {}, {}
    for i in range(count):
        first = bool(i % 2)
        frequency = int(2 ** draw.uniform(3 if not first else 5, 9))
        word = "w" * draw.randint(3, 6) + str(i).translate(str.maketrans("0123456789", "abcdefghij")).rjust(3, "z")
        value = 2 + 0.3 * np.log2(frequency) + 0.2 * draw.randn() + planted * first
        words[word], groups[word] = WordValue(frequency, float(draw.randint(1, 3)), value), first
    return words, groups


def test_matched_pairs_share_everything_and_use_no_word_twice() -> None:
    words, groups = _words(0.0)
    parts = {word: ("noun", "verb")[len(word) % 2] for word in words}
    pairs = matched_pairs(words, groups, parts)
    assert len(pairs) > 40
    used = [word for pair in pairs for word in pair]
    assert len(set(used)) == len(used)
    for first, second in pairs:
        assert groups[first] and not groups[second]
        assert len(first) == len(second) and parts[first] == parts[second]
        assert round(words[first].tokens) == round(words[second].tokens)
        assert 0.5 < words[first].count / words[second].count < 2
        assert matching_key(first, words[first], parts[first]) == matching_key(second, words[second], parts[second])


def test_pairing_does_not_look_at_the_values() -> None:
    words, groups = _words(0.0)
    other = {word: measured._replace(value=-measured.value) for word, measured in words.items()}
    assert matched_pairs(words, groups, {}) == matched_pairs(other, groups, {})


def test_a_planted_difference_is_found_raw_and_in_pairs() -> None:
    words, groups = _words(0.5)
    found = compare_words(words, groups, {}, resamples=400)
    for view in ("raw", "matched"):
        assert number(found[view].p_value) < 0.01 and number(found[view].low) > 0 and number(found[view].d_low) > 0
    assert found["matched"].difference == pytest.approx(0.5, abs=0.15)


def test_a_difference_of_frequency_alone_is_found_raw_but_not_in_pairs() -> None:
    found = compare_words(*_words(0.0), {}, resamples=400)
    raw, matched = found["raw"], found["matched"]
    assert number(raw.p_value) < 0.01 and number(raw.low) > 0
    assert number(matched.p_value) > 0.05 and number(matched.low) < 0 < number(matched.high)


def test_the_permutation_test_seldom_finds_what_is_not_there() -> None:
    draw = np.random.RandomState(0)
    drawn = [(draw.randn(30).tolist(), draw.randn(40).tolist()) for _ in range(40)]
    p_values = [number(compare(*pair, resamples=200).p_value) for pair in drawn]
    assert sum(p < 0.05 for p in p_values) <= 6 and np.mean(p_values) == pytest.approx(0.5, abs=0.15)


def test_effect_sizes_are_those_of_their_formulas() -> None:
    a, b = [1.0, 2.0, 4.0], [0.0, 2.0, 2.0, 3.0]
    found = compare(a, b, resamples=100)
    above = np.mean([np.sign(x - y) for x in a for y in b])
    assert found.cliffs_delta == pytest.approx(above)
    spread = np.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / 2)
    assert found.cohens_d == pytest.approx((np.mean(a) - np.mean(b)) / spread)
    assert found.n == (3, 4) and found.median == (2.0, 2.0)
    json.dumps(dataclasses.asdict(found))


def test_what_cannot_be_known_is_left_open() -> None:
    assert compare([1.0], [2.0, 3.0]).p_value is None
    constant = compare([1.0] * 5, [1.0] * 6, resamples=100)
    assert constant.difference == 0 and constant.cohens_d is None and constant.p_value == 1.0
    with pytest.raises(ValueError, match="no pairs"):
        compare([1.0, 2.0], [1.0], paired=True)


def test_the_untrained_null_and_the_change_are_compared_in_the_same_pairs() -> None:
    (words, groups), (null, _) = _words(0.5), _words(0.0)
    found = compare_words(words, groups, {}, null=null, resamples=400)
    assert found["change_raw"].difference == pytest.approx(0.5)
    assert found["change_matched"].n == found["null_matched"].n == found["matched"].n
    assert number(found["null_matched"].p_value) > 0.05


# ---- word in context ------------------------------------------------------------------------


def test_the_share_that_changed_compares_sets_of_choices() -> None:
    first = np.array([[[0, 1], [2, 3]]])  # one layer, two rows, two choices
    assert share_changed(first, first[..., ::-1]) == 0.0
    assert share_changed(first, np.array([[[1, 5], [6, 7]]])) == 0.75


def _item(first: str, second: str, word: str, same: bool) -> WordInContext:
    spans = tuple((text.index(word), text.index(word) + len(word)) for text in (first, second))
    return WordInContext(texts=(first, second), spans=spans, same_sense=same)  # pyright: ignore[reportArgumentType]


def test_the_same_context_changes_nothing_and_others_are_not_the_word(text: PackedDataset) -> None:
    model = tiny.model("mhmoe_parameters", num_hidden_layers=4).eval()
    same = _item("ba moli ku", "ba moli ku", "moli", True)
    other = _item("ba moli ku", "moli zu re ba", "moli", False)
    found = measure_contexts(model, text.tokenizer, [same, other])
    assert found.changed[0] == 0 and found.others[0] == 0 and found.overlap.tolist() == [1.0, 0.25]
    assert found.same_form.tolist() == [True, True] and found.same_before.tolist() == [True, False]
    assert found.distance[0] == 0 and found.distance[1] > 0
    assert measure_changes(model, text.tokenizer, [same, other]) == found.changed.tolist()
    # Against an explicit loop over layers and heads of each word's last token.
    index = []
    for string, (_, end) in zip(other.texts, other.spans, strict=True):
        (encoding,) = encode([string], text.tokenizer)
        last = max(i for i, (a, _) in enumerate(encoding.offsets) if a < end)
        with torch.no_grad():
            routing = model(torch.tensor([[0, *encoding.ids]]), output_routing=True).routing
        index.append([int(layer.index[0, last + 1, head, 0]) for layer in routing for head in range(2)])
    assert found.changed[1] == np.mean([a != b for a, b in zip(*index, strict=True)])


def test_senses_that_move_the_experts_are_found_and_context_alone_is_not() -> None:
    draw = np.random.RandomState(0)
    n = 300
    same, alike = draw.rand(n) < 0.5, draw.rand(n) < 0.6
    columns = {
        "same_sense": same, "same_form": alike, "same_before": draw.rand(n) < 0.2, "distance": draw.randint(0, 20, n),
        "position": draw.randint(0, 20, n), "tokens": draw.randint(1, 4, n), "overlap": draw.rand(n),
        "others": draw.rand(n),
    }  # fmt: skip
    noise = 0.1 * draw.randn(n)
    planted = Contexts(**columns, changed=0.5 + 0.1 * ~same + noise)
    confounded = dataclasses.replace(planted, same_form=~same)
    null = dataclasses.replace(planted, changed=0.5 + noise)
    found = compare_senses(planted, null=null, resamples=300)
    assert all(number(found[view].p_value) < 0.05 for view in ("raw", "same_form", "adjusted", "change_raw"))
    assert number(found["null_raw"].p_value) > 0.05
    explained = compare_senses(confounded, resamples=300)
    assert number(explained["raw"].p_value) < 0.05 and explained["adjusted"].difference is None  # they are one


def test_an_effect_is_found_as_large_as_it_is_though_a_control_goes_with_it() -> None:
    draw = np.random.RandomState(3)
    n = 4000
    first = draw.rand(n) < 0.5
    control = np.column_stack([1.0 * first + 0.7 * draw.randn(n), draw.rand(n)])
    values = 0.1 * first - 0.2 * control[:, 0] + 0.1 * draw.randn(n)
    found = adjusted_difference(values.tolist(), first.tolist(), control, resamples=300)
    assert number(found.low) < 0.1 < number(found.high) and found.difference == pytest.approx(0.1, abs=0.02)
    assert found.mean is not None and found.mean[0] - found.mean[1] == pytest.approx(found.difference)
    assert found.cohens_d == pytest.approx(1.0, abs=0.2) and number(found.p_value) < 0.01
    raw = compare(values[first].tolist(), values[~first].tolist(), resamples=300)
    assert number(raw.difference) < 0  # the control alone would turn it


def test_without_an_effect_the_adjusted_test_seldom_finds_one() -> None:
    found = []
    for seed in range(60):
        draw = np.random.RandomState(seed)
        first = draw.rand(80) < 0.5
        control = (first + draw.randn(80))[:, None]
        values = 0.3 * control[:, 0] + draw.randn(80)
        found.append(number(adjusted_difference(values.tolist(), first.tolist(), control, resamples=200).p_value))
    assert 0 <= sum(p < 0.05 for p in found) <= 8 and max(found) > 0.7


def test_items_of_a_generated_text_have_the_topics_and_senses_that_their_label_says() -> None:
    corpus = GeneratedCorpus(topics=4, headwords=60, documents_per_split=60)
    truth: dict[tuple[str, int], tuple[int, int]] = {}
    for paragraph, occurrences in corpus.paragraphs_with_truth("valid"):
        for _, start, _, sense, topic in occurrences:
            truth[paragraph, start] = (sense, topic)
    kinds = corpus.kinds()
    for kind in ("ambiguous", "diverse"):
        words = {word for word in kinds if kinds[word] == kind}
        items = contexts_of_generated(corpus.paragraphs_with_truth("valid"), words, 2)
        of_word = Counter(item.texts[0][slice(*item.spans[0])] for item in items)
        assert len(of_word) > 5 and set(of_word.values()) == {4}
        assert sum(item.same_sense for item in items) == len(items) / 2
        for item in items:
            assert all(span[0] >= len(text) / 2 for text, span in zip(item.texts, item.spans, strict=True))
            spelled = [text[slice(*span)] for text, span in zip(item.texts, item.spans, strict=True)]
            assert spelled[0] == spelled[1] and spelled[0] in words and item.texts[0] != item.texts[1]
            (sense, topic), (other_sense, other_topic) = (
                truth[text, span[0]] for text, span in zip(item.texts, item.spans, strict=True)
            )
            assert (topic == other_topic) is item.same_sense
            assert (sense == other_sense) is (item.same_sense or kind == "diverse")
    with pytest.raises(ValueError, match="no word stands in two topics"):
        contexts_of_generated([], ["ba"], 4)


def test_items_are_read_and_a_bad_line_is_named(tmp_path: Path) -> None:
    row = {"word": "ba", "sentence1": "ba", "sentence2": "a ba", "start1": 0, "end1": 2, "start2": 2, "end2": 4}
    path = tmp_path / "wic.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(row | {"label": 1}) + "\n").encode()))
    (item,) = read_contexts(path)
    assert item.same_sense and item.texts[1][slice(*item.spans[1])] == "ba"
    path.write_bytes(gzip.compress((json.dumps(row | {"label": 1}) + "\n" + json.dumps(row) + "\n").encode()))
    with pytest.raises(UserError, match="line 2, is not a WiC item"):
        read_contexts(path)
    for label in ("false", -1, None):  # a hidden one is -1
        path.write_bytes(gzip.compress((json.dumps(row | {"label": label}) + "\n").encode()))
        with pytest.raises(UserError, match="line 1, is not a WiC item"):
            read_contexts(path)
    with pytest.raises(UserError, match="cannot read"):
        read_contexts(tmp_path / "none.jsonl")


@pytest.mark.parametrize("rule", ["mean", "last"])
def test_words_that_a_tokenizer_leaves_out_are_not_measured(rule: Rule) -> None:
    tokenizer = Tokenizer(models.BPE({"b": 0, "a": 1, "ba": 2}, [("b", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    found = measure_words(tiny.model("mhmoe_parameters"), tokenizer, ["ba жжж ba"], min_count=1, rule=rule)
    assert list(found.words) == ["ba"] and np.isfinite(found.words["ba"].value)


def test_a_text_that_a_tokenizer_refuses_is_a_mistake_and_no_accident() -> None:
    with pytest.raises(UserError, match=r"the tokenizer does not read the text \(WordLevel error"):
        encode(["ba ku"], Tokenizer(models.WordLevel({"ba": 0})))


def test_an_untrained_model_is_measured_like_any_other(text: PackedDataset) -> None:
    model = untrained(tiny.model("mhmoe_parameters"), 5)
    texts = [document.text for document in tiny.ZipfText().documents("test")]
    words = measure_words(model, text.tokenizer, texts, min_count=2).words
    assert words and all(1 <= measured.value <= 2 for measured in words.values())


def test_a_text_is_read_after_the_end_of_text_of_the_model(text: PackedDataset) -> None:
    model = tiny.model("mhmoe_parameters", bos_token_id=9, eos_token_id=9, pad_token_id=9)
    words = sorted({word for document in texts_of(text.valid, text.tokenizer) for word, _, _ in words_of(document)})
    measured = measure_words(model, text.tokenizer, words, min_count=1).words
    for word in words[:40]:
        experts = [token.index[0] for token in routed_tokens(model, text.tokenizer, word)]
        assert measured[word].value == pytest.approx(np.mean([len(np.unique(e)) for e in experts]), abs=1e-4)
