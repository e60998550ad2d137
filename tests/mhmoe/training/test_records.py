"""A record says the same after a trip to disk, and a file is written whole or not at all."""

import dataclasses
import functools
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

import jaxtyping
import pytest

from experiments.runner.plan import final_runs
from experiments.runner.store import Records
from experiments.systems import mhmoe
from mhmoe import io as files
from mhmoe.io import UserError, remove_leftovers, sha256_of, write_atomically
from mhmoe.training import record as records
from mhmoe.training.record import Record, fingerprint, provenance
from mhmoe.training.record_checks import Document, summarise_documents
from tests import tiny
from tests.forged import forged
from tests.mini import MINI, at_rate

FILES, RECORDS = Path(files.__file__), Path(records.__file__)


@functools.cache
def fake_record() -> Record:
    scale = at_rate(MINI, 0.01)
    (run,) = final_runs(scale, "english", mhmoe(8, "compute"), (1,), Records(scale, Path("none")))
    return forged(run)


def raw_record() -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(fake_record())))


# ---- records --------------------------------------------------------------------------------


def test_a_record_survives_the_trip_to_disk(tmp_path: Path) -> None:
    made = Record.from_dict(raw_record())
    made.save(tmp_path / "deep" / "down" / "dense.json")
    assert Record.load(tmp_path / "deep" / "down" / "dense.json") == made


def test_a_record_of_a_real_config_survives_though_json_has_no_tuples(tmp_path: Path) -> None:
    made = fake_record()
    assert isinstance(made.config["training"]["betas"], tuple)
    made.save(tmp_path / "r.json")
    assert Record.load(tmp_path / "r.json").fingerprint == made.fingerprint


def test_the_fingerprint_depends_on_config_and_seed_and_nothing_else() -> None:
    record = fake_record()
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
        "provenance": record.provenance | {"commit": "x", "device": "y"},
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
    "text for a number": (change("steps", "many"), r"steps='many' is not allowed; it must be a whole number"),
    "fraction of a step": (change("steps", 1.5), r"steps=1.5 is not allowed; it must be a whole number"),
    "truth for a number": (change("tokens", True), r"tokens=True is not allowed; it must be a whole number"),
    "number for text": (change("system", 3), r"system=3 is not allowed; it must be text"),
    "list for a mapping": (change("config", []), r"config=\[\] is not allowed; it must be dict"),
    "nothing": (change("wall_seconds", None), r"wall_seconds=None is not allowed; it must be a finite number"),
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
    "documents that are none": (
        change("metrics.test.documents", [1]),
        r"metrics.test.documents.0 is a int; it must have id, nll",
    ),
    "document without nll": (change("metrics.test.documents.0.nll", ...), r"metrics.test.documents.0.nll is missing"),
    "nll not a number": (
        change("metrics.test.documents.0.nll", float("nan")),
        r"metrics.test.documents.0.nll=nan is not allowed; it must be a finite number",
    ),
    "no token": (
        change("metrics.test.documents", [{"id": "a", "nll": 0.0, "tokens": 0, "bytes": 1}]),
        r"metrics.test.documents.0.tokens=0 is not allowed; it must be at least 1",
    ),
    "metric of text": (
        change("metrics.test.perplexity", "low"),
        r"metrics.test.perplexity='low' is not allowed; it must be a finite number",
    ),
    "metric missing": (
        change("metrics.test.perplexity", ...),
        r"metrics.test.perplexity is missing",
    ),
    "evaluation missing": (change("metrics.test", None), r"metrics.test is a NoneType; it must have perplexity"),
    "no evaluation": (change("metrics", {}), r"metrics is empty"),
}


# Their fingerprint is made to fit, as whoever forges a record would.
FORGED = {
    "name": (change("name", "english-dense-seed1"), r"name='english-dense-seed1' is not that of its task, system"),
    "system": (change("system", "dense"), r"name=.* is not that of its task, system and seed"),
    "scale": (change("scale", 5), r"scale=5 is not allowed"),
    "seed": (change("seed", -1), r"seed=-1 is not allowed; it must be at least 0"),
    "tokens": (change("tokens", -4), r"tokens=-4 is not allowed; it must be at least 1"),
    "more tokens": (change("tokens", 129), r"tokens=129 is not what its config gives \(128\)"),
    "more steps": (change("steps", 3), r"steps=3 is not what its config gives \(2\)"),
    "other steps": (change("config.training.steps", 3), r"steps=2 is not what its config gives \(3\)"),
    "no time": (change("wall_seconds", 0.0), r"wall_seconds=0.0 is not allowed; it must be above 0"),
    "endless time": (change("wall_seconds", float("inf")), r"wall_seconds=inf is not allowed"),
    "no memory": (change("peak_memory_bytes", 0), r"peak_memory_bytes=0 is not allowed"),
    "parameters": (change("parameters", 7), r"parameters=7 is not what its config gives \(\d+\)"),
    "active": (change("active_parameters", 7), r"active_parameters=7 is not what its config gives"),
    "flops": (change("flops_per_token", 7), r"flops_per_token=7 is not what its config gives"),
    "curve of text": (change("curve", ["x"]), r"curve.0 is a str; it must have step, tokens"),
    "no curve": (change("curve", []), r"curve has 0 points, not one after each"),
    "curve cut": (change("curve.1", ...), r"curve has 1 points, not one after each"),
    "curve's step": (change("curve.0.step", 2), r"curve has 2 points, not one after each"),
    "curve's tokens": (change("curve.0.tokens", 5), r"curve has 5 tokens after step 1, which its config denies"),
    "curve's loss": (change("curve.0.valid_nll", float("nan")), r"curve.0.valid_nll=nan is not allowed"),
    "curve's seconds": (change("curve.0.seconds", 1e6), r"curve has seconds that do not rise to wall_seconds"),
    "learning rate": (change("config.training.learning_rate", float("inf")), r"config.training: learning_rate=inf"),
    "training of text": (change("config.training", ["x"]), r"config.training=\['x'\] is not allowed"),
    "model of text": (change("config.model", "dense"), r"config.model='dense' is not allowed; it must be dict"),
    "model": (change("config.model.moe.heads", 3), r"config.model is not one of this version's: .*heads=3"),
    "length": (change("config.training.length", 32), r"length=32 exceeds config.model.max_position_embeddings=16"),
    "no text": (change("config.data", {}), r"config.data.corpus is missing"),
    "text's size": (change("config.data.splits.test.tokens", 5), r"metrics.test has \d+ tokens, its text \(5\)"),
    "two of one id": (change("metrics.test.documents.1.id", "document-0"), r"metrics.test has two documents of one"),
    "nll below 0": (change("metrics.test.documents.1.nll", -1.0), r"documents.1.nll=-1.0 is not allowed"),
    "half a token": (change("metrics.test.documents.1.tokens", 1.5), r"documents.1.tokens=1.5 is not allowed"),
    "commit": (change("provenance.commit", ...), r"provenance.commit is missing"),
    "dirty": (change("provenance.dirty", "no"), r"provenance.dirty='no' is not allowed; it must be True or False"),
    "an int beyond all floats": (change("wall_seconds", 10**400), r"wall_seconds=1000.* is not allowed"),
    "a sum beyond all floats": (change("metrics.test.documents.1.tokens", 10**400), r""),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_record_is_held_against_its_own_config_and_text_field_by_field(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users run without the type checks
    spoil, message = FORGED[case]
    raw = raw_record()
    spoil(raw)
    raw["fingerprint"] = fingerprint(raw["config"], raw["seed"])
    with pytest.raises(UserError, match=f"^here.json: .*{message}") as caught:
        Record.from_dict(raw, where="here.json")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_a_change_by_hand_is_found_by_the_digest_though_all_else_fits(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    fake_record().save(path)
    raw = json.loads(path.read_bytes())
    documents = raw["metrics"]["test"]["documents"]
    documents[0]["nll"] *= 0.5
    raw["metrics"]["test"] |= summarise_documents(documents)
    path.write_text(json.dumps(raw))
    with pytest.raises(UserError, match=r"r.json was changed after it was written: digest") as caught:
        Record.load(path)
    assert "\n" not in str(caught.value)
    del raw["digest"]  # as in records from before there was one
    path.write_text(json.dumps(raw))
    assert Record.load(path).metrics["test"]["documents"][0]["nll"] == documents[0]["nll"]


def test_all_committed_records_are_valid() -> None:
    paths = sorted((tiny.ROOT / "results" / "runs").glob("*/*.json"))
    for path in paths:
        record = Record.load(path)
        assert (path.parent.name, path.stem) == (record.scale, record.name)
    assert len(paths) >= 390


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
        ("{}".encode("utf-16"), "is not readable JSON"),
        (b"[" * 100_000, r"is not readable JSON \(maximum recursion depth"),
        (b'{"name":' * 100_000, r"is not readable JSON \(maximum recursion depth"),
        (b'{"name": "\\ud800"}', r"is not readable JSON .*surrogates not allowed"),
        (b'{"steps": NaN}', "NaN is no number"),
        (b'{"steps": -Infinity}', "-Infinity is no number"),
        (b'{"steps": 1, "steps": 2}', "the key 'steps' is there twice"),
        (b'{"steps": ' + b"9" * 5000 + b"}", "is not readable JSON"),
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
    documents: list[Document] = [
        {"id": "a", "nll": 8 * 0.6931471805599453, "tokens": 4, "bytes": 3},
        {"id": "b", "nll": 2 * 0.6931471805599453, "tokens": 2, "bytes": 2},
    ]
    summary = summarise_documents(documents)
    assert summary["perplexity"] == pytest.approx(2 ** (10 / 6))
    assert summary["bits_per_byte"] == pytest.approx(10 / 5)
    assert (summary["tokens"], summary["bytes"]) == (6, 5)


def test_a_model_beyond_hope_has_a_perplexity_too() -> None:
    assert summarise_documents([{"id": "a", "nll": 1e6, "tokens": 1, "bytes": 1}])["perplexity"] > 1e300


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
    with pytest.raises(UserError, match=r"cannot write .*/folder: it is a folder; name a file"):
        write_atomically(tmp_path / "folder", b"new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


# io.py is loaded by its path here: importing the package would take seconds.
WRITER = f"""
import importlib.util, os, signal, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("files", {str(FILES)!r})
files = sys.modules["files"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
moment, path = sys.argv[1], Path(sys.argv[2])
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
if moment != "never":
    setattr(os, moment, die)
files.write_atomically(path, b"new" * 100_000)
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
    remove_leftovers(tmp_path)
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
    (tmp_path / "mhmoe" / "training").mkdir(parents=True)
    shutil.copy(RECORDS, tmp_path / "mhmoe" / "training")
    spec = importlib.util.spec_from_file_location("copied_records", tmp_path / "mhmoe" / "training" / "record.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["copied_records"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_new_records_do_not_make_a_tree_dirty_and_changed_code_does(tmp_path: Path) -> None:
    copied = _copied_records(tmp_path)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x"]
    for command in (["init", "-q"], ["add", "mhmoe/training/record.py"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    shutil.rmtree(tmp_path / "mhmoe" / "training" / "__pycache__", ignore_errors=True)
    clean = copied.git_state()
    assert clean["dirty"] is False and re.fullmatch("[0-9a-f]{40}", clean["commit"])
    write_atomically(tmp_path / "results" / "runs" / "r.json", "{}")
    assert copied.git_state() == clean
    write_atomically(tmp_path / "mhmoe" / "training" / "record.py", "changed")
    assert copied.git_state() == clean | {"dirty": True}


def test_a_copied_tree_without_git_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = _copied_records(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv("MHMOE_COMMIT", raising=False)
    assert copied.git_state() == {"commit": "unknown", "dirty": True}
    monkeypatch.setenv("MHMOE_COMMIT", "abc")
    assert copied.git_state() == {"commit": "abc", "dirty": False}


def test_a_package_within_another_projects_tree_does_not_take_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    command = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x"]
    subprocess.run([*command, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    monkeypatch.setenv("MHMOE_COMMIT", "abc")
    assert _copied_records(tmp_path / "site-packages").git_state() == {"commit": "abc", "dirty": False}
