"""Import order is reading order, within the folders and between them; and the repository stays light."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What the files of a folder may import from the other folders.
MAY_IMPORT = {
    "mhmoe": set[str](),
    "baselines": {"mhmoe"},
    "analysis": {"mhmoe"},
    "experiments": {"mhmoe", "baselines", "analysis"},
    "benchmarks": {"mhmoe", "baselines", "analysis", "experiments"},
}
# In these, READING_ORDER names every file. Elsewhere it may name the shared ones: the others come after those
# and do not import each other (a system, a table), except __main__, which comes last.
FULLY_ORDERED = ("mhmoe", "analysis")

LARGEST_FILE = 500_000
PICTURES = {".png", ".svg", ".pdf"}


def reading_order(folder: Path) -> tuple[str, ...]:
    """The tuple READING_ORDER in the folder's __init__.py, read without importing; empty if there is none."""
    init = folder / "__init__.py"
    for node in ast.parse(init.read_text(encoding="utf-8")).body if init.is_file() else ():
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == "READING_ORDER" for target in targets):
                return ast.literal_eval(node.value)
    return ()


def modules(folder: Path) -> list[str]:
    """Names of the files and sub-folders of Python in `folder`, without __init__."""
    files = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    return sorted(files - {"__init__"})


def imports(file: Path, root: Path) -> list[tuple[str, str | None]]:
    """(folder, module or None for the folder itself) of every import of our own code, wherever it stands."""
    package = file.relative_to(root).parent.parts
    dotted: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if isinstance(node, ast.Import):
            dotted += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join([*above, *([node.module] if node.module else [])])
            dotted += [f"{source}.{alias.name}" for alias in node.names]
    found: list[tuple[str, str | None]] = []
    for name in dotted:
        folder, _, rest = name.partition(".")
        if folder in MAY_IMPORT or folder == "tests":
            module = rest.partition(".")[0]
            found.append((folder, module if module in modules(root / folder) else None))
    return found


def violations(root: Path) -> list[str]:
    """One line for every import, and every file, that breaks the order."""
    lines: list[str] = []
    for folder, allowed in MAY_IMPORT.items():
        order = reading_order(root / folder)
        present = modules(root / folder)
        lines += [
            f"{folder}: READING_ORDER names {name}, which does not exist" for name in order if name not in present
        ]
        if folder in FULLY_ORDERED:
            missing = (name for name in present if name not in order and name != "__main__")
            lines += [f"{folder}: READING_ORDER lacks {name}" for name in missing]
        place = {name: order.index(name) if name in order else len(order) for name in present}
        place["__main__"] = len(order) + 1

        for file in sorted((root / folder).rglob("*.py")):
            first = file.relative_to(root / folder).parts[0]
            here = "__init__" if first == "__init__.py" else first.removesuffix(".py")
            for imported, module in imports(file, root):
                line = f"{file.relative_to(root)} imports {imported}{'.' + module if module else ''}"
                if imported != folder:
                    if imported not in allowed:
                        lines.append(f"{line}; {folder} may import {sorted(allowed) or 'none of the folders'}")
                elif here in ("__init__", "__main__") or module == here:
                    continue
                elif module is None:
                    lines.append(f"{line} itself; import the file that defines the name")
                elif place[module] >= place[here]:
                    lines.append(f"{line}, which does not come before it in READING_ORDER")
    return lines


def test_every_import_follows_the_reading_order() -> None:
    assert modules(ROOT / "mhmoe"), "no library to check"
    assert violations(ROOT) == []


TREE = {
    "mhmoe/__init__.py": 'READING_ORDER = ("first", "second")\nfrom mhmoe.second import b\n',
    "mhmoe/first.py": "import torch\na = 1\n",
    "mhmoe/second.py": "from mhmoe.first import a\nb = a\n",
    "baselines/one.py": "from mhmoe import b\n",
    "baselines/two.py": "import mhmoe.first\n",
    "analysis/__init__.py": 'READING_ORDER: tuple[str, ...] = ("count", "show")\n',
    "analysis/count.py": "from mhmoe import first\n",
    "analysis/show.py": "from .count import first\n",
    "experiments/__init__.py": 'READING_ORDER = ("schema",)\n',
    "experiments/schema.py": "from analysis.count import first\n",
    "experiments/table1.py": "from baselines import one\nfrom experiments.schema import first\n",
    "experiments/__main__.py": "from experiments import table1\n",
}


def _write(root: Path, tree: dict[str, str]) -> Path:
    for name, text in tree.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_an_orderly_tree_has_no_violations(tmp_path: Path) -> None:
    assert violations(_write(tmp_path, TREE)) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mhmoe/first.py", "from mhmoe.second import b\n"),
        ("mhmoe/first.py", "from . import second\n"),
        ("mhmoe/first.py", "def late():\n    import mhmoe.second\n"),
        ("mhmoe/second.py", "from mhmoe import b\n"),
        ("mhmoe/second.py", "import baselines.one\n"),
        ("mhmoe/unlisted.py", ""),
        ("mhmoe/__init__.py", 'READING_ORDER = ("first", "second", "gone")\n'),
        ("baselines/one.py", "from baselines.two import x\n"),
        ("baselines/one.py", "from analysis import count\n"),
        ("analysis/count.py", "from baselines.one import b\n"),
        ("analysis/count.py", "from .show import first\n"),
        ("experiments/table1.py", "from tests import conftest\n"),
        ("experiments/table1.py", "from experiments.table2 import x\n"),
        ("experiments/schema.py", "import experiments.table1\n"),
    ],
)
def test_a_disorderly_import_is_named(tmp_path: Path, name: str, text: str) -> None:
    tree = TREE | {"experiments/table2.py": "x = 1\n", name: text}
    (line,) = violations(_write(tmp_path, tree))
    assert name.partition("/")[0] in line


def test_no_committed_file_but_a_picture_is_large() -> None:
    try:
        listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listing.stdout.split("\0") if name]
    if not files:
        pytest.skip("nothing is committed yet")
    large = [
        f"{file.relative_to(ROOT)}: {file.stat().st_size:,} bytes, more than {LARGEST_FILE:,}"
        for file in files
        if file.is_file() and file.suffix not in PICTURES and file.stat().st_size > LARGEST_FILE
    ]
    assert large == []
