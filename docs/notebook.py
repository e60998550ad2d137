"""A tutorial as a notebook, for Colab and Jupyter: `python -m docs.notebook` writes docs/tutorials/own_text.ipynb.

Its code cells are the page's blocks of Python, which the tests run; a cell before them installs the package.
"""

import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "tutorials" / "own_text.md"
NOTEBOOK = PAGE.with_suffix(".ipynb")
BLOCK = re.compile(r"^```python\n(.*?)^```\n?", flags=re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[([^\]]*)\]\((?!http)[^)]*\)")  # to files beside the page, which a notebook does not have
INSTALL = """\
# On Colab: upload the wheel that `pip wheel --no-deps .` makes in a clone.
import importlib.util
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("mhmoe") is None:
    (wheel,) = Path().glob("mhmoe-*.whl")
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", str(wheel)], check=True)
"""


def notebook(page: str) -> str:
    """The page's text and blocks of Python as cells, in nbformat 4.5."""
    cells = [_cell("code", INSTALL, 0)]
    for number, part in enumerate(BLOCK.split(page), 1):  # text and code in turns
        if text := part.strip("\n"):
            code = number % 2 == 0
            cells.append(_cell("code" if code else "markdown", text if code else LINK.sub(r"\1", text), number))
    metadata = {
        "colab": {"provenance": []},
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    }
    whole = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _cell(kind: str, text: str, number: int) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": text.rstrip("\n")}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
