"""Whatever a file or an argument holds, a command of analysis/ says in one line what is wrong, before its work."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.routing import inspect
from analysis.routing.text import encode, load_checkpoint
from analysis.routing.words import word_list
from analysis.routing.words.in_context import read_contexts
from analysis.routing.words.polysemy import read_senses, read_word_list
from analysis.routing.words.word_list import read_texts
from analysis.zero_shot import scoring as zero_shot
from analysis.zero_shot.tasks import find, write_tasks
from benchmarks.__main__ import benchmark
from experiments.kinds import trend
from experiments.scales import CPU
from mhmoe.commands.routed import RoutedToken, routed_tokens, terminal
from mhmoe.data.manifest import DataFolder
from mhmoe.data.tokenizer import as_transformers
from mhmoe.io import UserError, check_output, write_atomically
from mhmoe.model.checkpoints import load
from tests import tiny

HALF = "\ud83d"
DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny.model("mhmoe_parameters").save_pretrained(folder)
    as_transformers(tiny.text(folder / "packed").tokenizer).save_pretrained(folder)
    return folder


def one_line(command: Callable[[list[str]], int], arguments: list[Any], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says when it refuses."""
    assert command([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("error: ") and err.count("\n") == 1
    return err


# ---- texts ----------------------------------------------------------------------------------


def test_half_a_surrogate_pair_is_refused_with_its_place(checkpoint: Path, tmp_path: Path, capsys) -> None:
    said = "character 4 is '\\ud83d', half of a pair"
    assert said in one_line(inspect.main, [checkpoint, f"ba {HALF}"], capsys)
    (tmp_path / "text.jsonl").write_text('{"text": "ba"}\n' + json.dumps({"text": f"ba {HALF} ku"}) + "\n")
    (tmp_path / "words.txt").write_text("ba")
    options = ["--words", tmp_path / "words.txt", "--text", tmp_path / "text.jsonl"]
    line = one_line(word_list.main, [checkpoint, *options], capsys)
    assert f"text.jsonl, line 2: the text is no Unicode: {said}" in line
    with pytest.raises(UserError, match="half of a pair"):
        encode(["ba", HALF], load_checkpoint(checkpoint)[1])


@pytest.mark.parametrize("field", ["text", "source", "id"])
def test_half_a_surrogate_pair_in_a_document_is_named_by_file_and_line(field: str, tmp_path: Path) -> None:
    line = json.dumps({"text": "a", "source": "b", "id": "c"} | {field: HALF}).encode()
    with pytest.raises(UserError, match="x, line 7, is not a JSON object with a text"):
        DataFolder(tmp_path, {}).parse(line, "x", 7)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("config.json", lambda path: load_checkpoint(path.parent)),
        ("text.jsonl", read_texts),
        ("contexts.jsonl", read_contexts),
        ("manifest.json", lambda path: DataFolder.at(path.parent)),
        ("line", lambda path: DataFolder(path.parent, {}).parse(path.read_bytes(), path.name, 1)),
        ("layer.json", lambda path: benchmark(only="layer", render=True, output=path.parent)),
    ],
)
def test_a_hundred_thousand_brackets_are_damage_like_any_other(name: str, read: Any, tmp_path: Path) -> None:
    (tmp_path / name).write_text(DEEP)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=name):
        read(tmp_path / name)


def test_a_damaged_benchmark_is_named_when_its_costs_are_shown(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(trend, "BENCHMARK", tmp_path / "training.json")
    assert trend.measured_costs("speed", CPU) == {}
    for content in (DEEP, "{}", '{"measured": 3}'):
        (tmp_path / "training.json").write_text(content)
        with pytest.raises(UserError, match=r"training\.json is damaged"):
            trend.measured_costs("speed", CPU)


@pytest.mark.parametrize("read", [read_texts, read_word_list, read_senses, read_contexts])
def test_a_packed_file_with_a_changed_byte_cannot_be_read(read: Any, tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(b"the words of a text " * 500, mtime=0))
    path = tmp_path / "file.gz"
    for place in (0, 20, len(packed) // 2, len(packed) - 6):
        changed = bytearray(packed)
        changed[place] ^= 0xFF
        path.write_bytes(changed)
        with pytest.raises(UserError, match="cannot read"):
            read(path)


def test_a_line_of_a_text_has_a_string_for_its_text(tmp_path: Path) -> None:
    for value in ([1], None, 5):
        (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n\n' + json.dumps({"text": value}))
        with pytest.raises(UserError, match="line 3: every line must be"):
            read_texts(tmp_path / "a.jsonl")


def test_a_cell_of_a_lexicon_that_is_too_long_is_named_by_its_line(tmp_path: Path) -> None:
    head = "lemma\tnoun_senses\tverb_senses\tadj_senses\tadv_senses\n"
    (tmp_path / "lexicon.tsv").write_text(head + "x" * 200_000 + "\t1\t0\t0\t0\n")
    with pytest.raises(UserError, match="is no line of a table"):
        read_senses(tmp_path / "lexicon.tsv")


@pytest.mark.parametrize(("option", "value"), [("--min-count", "0"), ("--seed", "-1")])
def test_counts_and_seeds_out_of_range_are_refused(option: str, value: str, tmp_path: Path, capsys) -> None:
    arguments = [tmp_path, "--words", tmp_path, "--text", tmp_path, option, value]
    assert f"{option[2:].replace('-', '_')}={value} is not allowed" in one_line(word_list.main, arguments, capsys)


# ---- checkpoints ----------------------------------------------------------------------------


def test_weights_of_another_shape_are_named_and_nothing_else_is_said(checkpoint: Path, tmp_path: Path, capfd) -> None:
    for file in checkpoint.glob("*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 640}))
    with pytest.raises(UserError, match=r"mismatched weights, such as .*embed_tokens"):
        load(str(tmp_path))
    assert "LOAD REPORT" not in "".join(capfd.readouterr())


def test_a_device_without_numbers_and_names_that_nothing_can_have_are_refused(checkpoint: Path) -> None:
    with pytest.raises(UserError, match="device='meta' cannot be used"):
        load(str(checkpoint), device="meta")
    for name in ("x" * 5000, "a\0b", "~no-such-user/model"):
        with pytest.raises(UserError):
            load(name)
        with pytest.raises(UserError):
            load_checkpoint(Path(name))


# ---- outputs --------------------------------------------------------------------------------


def test_what_is_no_file_is_never_written_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    cannot = {"pipe": "no file", ".": "a folder", "file/x": "File exists", "x" * 300: "too long", "a\0b": "null byte"}
    for name, reason in cannot.items():
        with pytest.raises(UserError, match=f"cannot write .*{reason}"):
            check_output(tmp_path / name)
    with pytest.raises(UserError, match="no file; name a file"):
        write_atomically(tmp_path / "pipe", "text")
    assert (tmp_path / "pipe").is_fifo()
    check_output(tmp_path / "file")
    check_output(tmp_path / "new" / "file")
    assert {path.name for path in tmp_path.rglob("*")} == {"pipe", "file", "new"}


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_loaded(tmp_path: Path, capsys) -> None:
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "out"
    for command, arguments in (
        (inspect.main, ["no checkpoint", "ba", "--html", output]),
        (zero_shot.main, ["no checkpoint", "--data", "hub", "--output", output]),
        (zero_shot.main, ["--data", tmp_path, "--write-tasks", tmp_path / "file"]),
    ):
        assert "cannot write" in one_line(command, arguments, capsys)
    with pytest.raises(UserError, match="cannot write"):
        benchmark(quick=True, output=tmp_path / "file")


def test_tasks_are_written_all_or_none(tmp_path: Path) -> None:
    (tmp_path / "piqa.yaml").mkdir()
    with pytest.raises(UserError, match=r"piqa\.yaml: it is a folder"):
        write_tasks(tmp_path, find(["rte", "piqa"]), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["piqa.yaml"]


# ---- the terminal ---------------------------------------------------------------------------


def test_a_text_cannot_command_the_terminal(checkpoint: Path) -> None:
    tokens = routed_tokens(*load_checkpoint(checkpoint), "ba \x1b[2J\u202e ku\x07")
    shown = terminal(tokens, [0], [2], coloured=False)
    assert "\\x1b" in shown and "\\x07" in shown and all(c.isprintable() or c == "\n" for c in shown)


def test_marks_and_wide_letters_leave_the_columns_straight(checkpoint: Path) -> None:
    (token,) = routed_tokens(*load_checkpoint(checkpoint), "a")
    pieces = [RoutedToken(**{**vars(token), "text": text}) for text in ("e\u0301", "हिन्", "中文", "plain")]
    lines = terminal(pieces, [0], [2], coloured=False).splitlines()[1:]
    columns = {"e\u0301": 1, "हिन्": 3, "中文": 4, "plain": 5}  # Hindi's first vowel sign has a column of its own
    for line, (text, width) in zip(lines, columns.items(), strict=True):
        before, after = line.split(text)
        assert len(before) + width == 5 and after == lines[-1].split("plain")[1]
