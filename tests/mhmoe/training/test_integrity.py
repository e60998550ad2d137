"""Killed at any moment, a run ends as if it had not been; damage to its files is found, or changes nothing.

A share of `python -m tests.integrity`, which kills and damages more.
"""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.integrity import after_damage as after_damage_of
from tests.integrity import cut, finish, flipped, killed_and_finished, outcome, zeroed


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("whole")
    finish(folder)
    return folder, outcome(folder)


def test_a_run_killed_at_a_random_moment_leaves_what_one_never_killed_leaves(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    killed_and_finished(tmp_path / "killed", 3.0, random.Random(0))
    assert outcome(tmp_path / "killed") == whole[1]


FILES = {
    "a model's weights": ("cache/models/mini/english-mhmoe_8_compute-seed1/model.safetensors", "harmless"),
    "packed text": ("cache/packed/*/test.bin", "found"),
    "its listing": ("cache/packed/*/pack.json", "found"),
    "a record": ("results/runs/mini/english-dense-seed1.json", "found"),
}


@pytest.mark.parametrize("what", FILES)
def test_damage_is_found_in_one_line_or_mended_to_the_same_results(
    whole: tuple[Path, dict[str, Any]], what: str
) -> None:
    """A damaged model is trained again, to the same bytes."""
    (folder, files), (name, expected) = whole, FILES[what]
    (path,) = folder.glob(name)
    damage = random.Random(what).choice((flipped, zeroed, cut))
    assert after_damage_of(folder, path, damage(path.read_bytes(), random.Random(0)), files) == expected


def test_the_model_of_another_run_is_not_measured(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Nor one that nobody sealed, as an earlier version left: the right one is trained in its place."""
    folder = shutil.copytree(whole[0], tmp_path / "copy")
    models = folder / "cache" / "models" / "mini"
    ours, other = models / "english-mhmoe_8_compute-seed1", models / "english-dense-seed1"
    shutil.rmtree(folder / "results" / "measurements")
    shutil.rmtree(ours)
    shutil.copytree(other, ours)
    (other / "run.json").unlink()
    finish(folder)
    assert outcome(folder) == whole[1]


def test_what_killed_runs_left_is_gone_after_the_next(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Half a pack, half a model, half a record, and the checkpoint of a run that has its record."""
    folder = shutil.copytree(whole[0], tmp_path / "copy")
    record = folder / "results" / "runs" / "mini" / "english-dense-seed1.json"
    fingerprint = record.read_text().partition('"fingerprint":"')[2][:16]
    halves = [
        folder / "cache" / "packed" / ".0123.writing-x" / "train.bin",
        folder / "cache" / "models" / "mini" / ".english-dense-seed1.writing-x" / "config.json",
        folder / "cache" / "checkpoints" / "mini" / ".english-dense-seed1.pt.writing-x",
        record.with_name(f".{record.name}.writing-x"),
        folder / "cache" / "checkpoints" / "mini" / f"english-dense-seed1-{fingerprint}.pt",
    ]
    for half in halves:
        half.parent.mkdir(parents=True, exist_ok=True)
        half.write_bytes(b"half")
    finish(folder)
    assert outcome(folder) == whole[1]
