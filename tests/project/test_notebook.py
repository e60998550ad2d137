"""The notebook is the tutorial, and its cells run one after the other."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from docs import notebook

CELLS: list[dict[str, Any]] = json.loads(notebook.NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = [cell["source"] for cell in CELLS if cell["cell_type"] == "code"]


def test_the_notebook_is_what_the_tutorial_gives():
    page = notebook.PAGE.read_text(encoding="utf-8")
    assert notebook.NOTEBOOK.read_text(encoding="utf-8") == notebook.notebook(page), "python -m docs.notebook"
    assert len(CODE) == 1 + page.count("\n```python\n") > 3
    assert all({"cell_type", "id", "metadata", "source"} <= cell.keys() for cell in CELLS)
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)


def test_its_cells_run_and_print_what_stands_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for source in CODE:
        exec(compile(source, "a cell", "exec"), namespace)
        said = [line.partition("  # ")[2] for line in source.splitlines() if line.startswith("print(")]
        assert capsys.readouterr().out.splitlines() == said


def test_the_first_cell_installs_the_wheel_that_was_uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[list[str]] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda command, check: asked.append(command))
    with pytest.raises(ValueError, match="not enough values"):
        exec(CODE[0], {})
    (tmp_path / "mhmoe-0.1.0-py3-none-any.whl").touch()
    exec(CODE[0], {})
    assert asked[0][1:] == ["-m", "pip", "install", "-q", "mhmoe-0.1.0-py3-none-any.whl"]
