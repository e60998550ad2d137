"""A record says the same after a trip to disk, and a file is written whole or not at all."""

import dataclasses
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mhmoe import records
from mhmoe.records import (
    Record,
    UserError,
    fingerprint,
    provenance,
    remove_leftovers,
    sha256_of,
    summarise_documents,
    write_atomically,
)
from tests import tiny
from tests.fake_records import record as fake_record

RECORDS = Path(records.__file__)


def raw_record() -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(fake_record("dense", 1))))


# ---- records --------------------------------------------------------------------------------


def test_a_record_survives_the_trip_to_disk(tmp_path: Path) -> None:
    made = fake_record("dense", 1)
    made.save(tmp_path / "deep" / "down" / "dense.json")
    assert Record.load(tmp_path / "deep" / "down" / "dense.json") == made


def test_a_record_of_a_real_config_survives_though_json_has_no_tuples(tmp_path: Path) -> None:
    config = {"training": dataclasses.asdict(tiny.TRAINING), "model": tiny.config("full").to_dict()}
    made = dataclasses.replace(fake_record("dense", 1), config=config, fingerprint=fingerprint(config, 1))
    made.save(tmp_path / "r.json")
    assert Record.load(tmp_path / "r.json").fingerprint == made.fingerprint


def test_the_fingerprint_depends_on_config_and_seed_and_nothing_else() -> None:
    record = fake_record("dense", 1)
    config = json.loads(json.dumps(record.config))
    assert fingerprint(config, 1) == record.fingerprint
    assert fingerprint(dict(reversed(config.items())), 1) == record.fingerprint  # order is no difference
    others = [
        fingerprint(config, 2),
        fingerprint(config | {"model": "xmoe"}, 1),
        fingerprint(config | {"training": {"learning_rate": 0.0041}}, 1),
        fingerprint(config | {"data": {"sha256": "b"}}, 1),
    ]
    assert len({record.fingerprint, *others}) == 5
    # Everything but config and seed may differ, and the record is still the declared one.
    elsewhere = raw_record() | {
        "provenance": {"commit": "x", "device": "y"},
        "wall_seconds": 1e9,
        "scale": "gpu",
    }
    assert Record.from_dict(elsewhere).fingerprint == record.fingerprint


def test_the_fingerprint_is_the_one_of_published_records() -> None:
    """A change of the hash would make every committed record stale."""
    canonical = b'{"config":{"a":{"x":true},"b":[1,2.5,null]},"seed":3}'
    assert fingerprint({"b": (1, 2.5, None), "a": {"x": True}}, 3) == sha256_of(canonical)[:16]


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Put `value` where `path` leads, e.g. "metrics.valid.tokens"; `...` deletes."""

    def apply(raw: Any) -> None:
        *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        for key in parents:
            raw = raw[key]
        if value is ...:
            del raw[last]
        else:
            raw[last] = value

    return apply


NOT_ALLOWED = {
    "unknown field": (change("surprise", 1), r"unknown fields \['surprise'\]"),
    "missing field": (change("seed", ...), r"missing fields \['seed'\]"),
    "missing curve": (change("curve", ...), r"missing fields \['curve'\]"),
    "text for a number": (change("steps", "many"), r"steps='many' is not of type int"),
    "fraction of a step": (change("steps", 1.5), r"steps=1.5 is not of type int"),
    "truth for a number": (change("tokens", True), r"tokens=True is not of type int"),
    "number for text": (change("system", 3), r"system=3 is not of type str"),
    "list for a mapping": (change("config", []), r"config=\[\] is not of type dict"),
    "nothing": (change("wall_seconds", None), r"wall_seconds=None is not of type float"),
    "later version": (change("schema_version", 2), r"schema_version=2, this version reads 1"),
    "no version": (change("schema_version", ...), r"schema_version=None, this version reads 1"),
    "tampered seed": (change("seed", 2), r"fingerprint [0-9a-f]{16} does not belong to its config"),
    "tampered config": (change("config.training.learning_rate", 1.0), r"fingerprint .* does not belong"),
    "tampered fingerprint": (change("fingerprint", "0" * 16), r"fingerprint 0{16} does not belong"),
    "tampered perplexity": (
        change("metrics.test.perplexity", 3.0),
        r"metrics.test.perplexity=3.0 does not follow",
    ),
    "tampered bits": (
        change("metrics.valid.bits_per_byte", 0.5),
        r"metrics.valid.bits_per_byte=0.5 does not",
    ),
    "tampered nll per token": (
        change("metrics.valid.nll_per_token", 0.5),
        r"nll_per_token=0.5 does not follow",
    ),
    "tampered count": (change("metrics.valid.tokens", 5), r"metrics.valid.tokens=5 does not follow"),
    "tampered document": (
        change("metrics.valid.documents.3.nll", 1.0),
        r"metrics.valid.perplexity=.* does not",
    ),
    "lost document": (
        change("metrics.valid.documents.3", ...),
        r"metrics.valid.perplexity=.* does not follow",
    ),
    "no documents": (change("metrics.test.documents", []), r"metrics.test has no documents"),
    "documents that are none": (change("metrics.test.documents", [1]), r"metrics.test has no documents"),
    "document without nll": (change("metrics.test.documents.0.nll", ...), r"a document has no finite nll"),
    "nll not a number": (
        change("metrics.test.documents.0.nll", float("nan")),
        r"a document has no finite nll",
    ),
    "no token": (
        change("metrics.test.documents", [{"id": "a", "nll": 0.0, "tokens": 0, "bytes": 1}]),
        r"metrics.test: its documents have no tokens",
    ),
    "metric of text": (
        change("metrics.test.perplexity", "low"),
        r"metrics.test.perplexity=low does not follow",
    ),
    "metric missing": (
        change("metrics.test.perplexity", ...),
        r"metrics.test.perplexity=None does not follow",
    ),
    "evaluation missing": (change("metrics.test", None), r"metrics.test has no documents"),
    "no evaluation": (change("metrics", {}), r"metrics is empty"),
}


@pytest.mark.parametrize("case", NOT_ALLOWED)
def test_a_record_that_cannot_be_true_is_refused_in_one_line(case: str) -> None:
    spoil, message = NOT_ALLOWED[case]
    raw = raw_record()
    Record.from_dict(raw)  # fine before
    spoil(raw)
    with pytest.raises(UserError, match=f"^here.json: .*{message}") as caught:
        Record.from_dict(raw, where="here.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not readable JSON"),
        (b'{"name": "dense", "fin', "is not readable JSON"),
        (b"\xff\xfe\x00", "is not readable JSON"),
        (b"[1, 2]", "a record is a JSON object, this is a list"),
        (b"{}", "schema_version=None"),
    ],
)
def test_a_file_that_is_no_record_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{re.escape(str(path))}.*{message}") as caught:
        Record.load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.json does not exist"):
        Record.load(tmp_path / "none.json")


def test_the_summary_is_perplexity_per_token_and_bits_per_byte() -> None:
    """Two bits on each of four tokens, one on each of two, over 5 bytes."""
    documents = [
        {"nll": 8 * 0.6931471805599453, "tokens": 4, "bytes": 3},
        {"nll": 2 * 0.6931471805599453, "tokens": 2, "bytes": 2},
    ]
    summary = summarise_documents(documents)
    assert summary["perplexity"] == pytest.approx(2 ** (10 / 6))
    assert summary["bits_per_byte"] == pytest.approx(10 / 5)
    assert (summary["tokens"], summary["bytes"]) == (6, 5)


def test_a_model_beyond_hope_has_a_perplexity_too() -> None:
    assert summarise_documents([{"nll": 1e6, "tokens": 1, "bytes": 1}])["perplexity"] > 1e300


# ---- whole or not at all --------------------------------------------------------------------


def test_what_is_written_is_there_and_nothing_else(tmp_path: Path) -> None:
    write_atomically(tmp_path / "new" / "text", "naïve")
    write_atomically(tmp_path / "new" / "text", b"\x00\xff")
    assert (tmp_path / "new" / "text").read_bytes() == b"\x00\xff"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["text"]
    assert sha256_of(tmp_path / "new" / "text") == sha256_of(b"\x00\xff")


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with tiny.full_disk(50_000):
        write_atomically(tmp_path / "small", bytes(40_000))
        with pytest.raises(UserError, match=r"cannot write .*/file: .*; the old file, if any, is untouched$"):
            write_atomically(path, bytes(60_000))
    assert path.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "small"]


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", b"old")
    with pytest.raises(UserError, match=r"cannot write .*/file/x"):
        write_atomically(tmp_path / "file" / "x", b"new")
    with pytest.raises(UserError, match=r"cannot write .*/file/x/y"):
        write_atomically(tmp_path / "file" / "x" / "y", b"new")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*/folder: Is a directory"):
        write_atomically(tmp_path / "folder", b"new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


# records.py is loaded by its path here: importing the package would take seconds.
WRITER = f"""
import importlib.util, os, signal, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("records", {str(RECORDS)!r})
records = sys.modules["records"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(records)
moment, path = sys.argv[1], Path(sys.argv[2])
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
if moment != "never":
    setattr(os, moment, die)
records.write_atomically(path, b"new" * 100_000)
"""


@pytest.mark.parametrize("moment", ["fsync", "chmod", "replace", "never"])
def test_a_writer_killed_at_any_moment_leaves_the_old_file(tmp_path: Path, moment: str) -> None:
    path, neighbour = tmp_path / "a.pt", tmp_path / ".a.pt.of-somebody-else"
    write_atomically(path, b"old")
    neighbour.write_bytes(b"")
    done = subprocess.run([sys.executable, "-c", WRITER, moment, path], timeout=60)
    assert done.returncode == (0 if moment == "never" else -signal.SIGKILL)
    assert path.read_bytes() == (b"new" * 100_000 if moment == "never" else b"old")
    assert len(list(tmp_path.iterdir())) == (2 if moment == "never" else 3)  # nobody could clean up yet
    remove_leftovers(path)
    assert sorted(tmp_path.iterdir()) == [neighbour, path]


def test_an_interrupt_while_writing_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    write_atomically(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"old")]


# ---- provenance -----------------------------------------------------------------------------


def test_provenance_names_command_versions_and_machine() -> None:
    made = provenance("python -m experiments run", "cpu", 2)
    assert made["command"] == "python -m experiments run" and (made["device"], made["threads"]) == ("cpu", 2)
    assert {"python", "torch", "transformers", "tokenizers", "numpy"} <= made["versions"].keys()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", made["started"])
    assert isinstance(made["dirty"], bool) and made["commit"]


def _copied_records(tmp_path: Path) -> Any:
    """The module as it stands in another tree."""
    (tmp_path / "mhmoe").mkdir()
    shutil.copy(RECORDS, tmp_path / "mhmoe")
    spec = importlib.util.spec_from_file_location("copied_records", tmp_path / "mhmoe" / "records.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["copied_records"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_new_records_do_not_make_a_tree_dirty_and_changed_code_does(tmp_path: Path) -> None:
    copied = _copied_records(tmp_path)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x"]
    for command in (["init", "-q"], ["add", "mhmoe/records.py"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    shutil.rmtree(tmp_path / "mhmoe" / "__pycache__", ignore_errors=True)
    clean = copied.git_state()
    assert clean["dirty"] is False and re.fullmatch("[0-9a-f]{40}", clean["commit"])
    copied.write_atomically(tmp_path / "results" / "runs" / "r.json", "{}")
    assert copied.git_state() == clean
    copied.write_atomically(tmp_path / "mhmoe" / "records.py", "changed")
    assert copied.git_state() == clean | {"dirty": True}


def test_a_copied_tree_without_git_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = _copied_records(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv("MHMOE_COMMIT", raising=False)
    assert copied.git_state() == {"commit": "unknown", "dirty": True}
    monkeypatch.setenv("MHMOE_COMMIT", "abc")
    assert copied.git_state() == {"commit": "abc", "dirty": False}
