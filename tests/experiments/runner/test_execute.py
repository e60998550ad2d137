"""What a record says of the command that made it."""

import sys
from pathlib import Path

import pytest

from experiments.runner.execute import command
from experiments.runner.store import RESULTS


def test_a_command_is_told_without_the_places_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = ["run", str(tmp_path / "mine.py"), "--results", str(RESULTS.parent / "results-own" / "x"), "--data", "text"]
    monkeypatch.setattr(sys, "argv", ["experiments", *given])
    assert command() == "python -m experiments run mine.py --results results-own/x --data text"
