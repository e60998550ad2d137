"""Import order is reading order, within the folders and between them; and the repository stays light."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What the files of a top folder may import from the other top folders.
MAY_IMPORT = {
    "mhmoe": set[str](),
    "baselines": {"mhmoe"},
    "analysis": {"mhmoe"},
    "experiments": {"mhmoe", "baselines", "analysis"},
    "benchmarks": {"mhmoe", "baselines", "analysis", "experiments"},
}
# Every folder has a READING_ORDER of its files and subfolders, and a file imports only from what stands before it. In
# these it names them all. Elsewhere it may name the shared ones: the others come after those and do not import each
# other (a system, a table), except __main__, which comes last.
FULLY_ORDERED = ("mhmoe", "analysis", "experiments/stand_in", "experiments/runner", "experiments/report")
# Old model folders import these names; nothing else does, and they stand above everything.
COMPATIBILITY = {"mhmoe": ("configuration", "language_model")}

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


def imports(file: Path, root: Path) -> list[tuple[str, ...]]:
    """The parts of every name of our own code that is imported, wherever that stands: folders, file, then the name."""
    package = file.relative_to(root).parent.parts
    dotted: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if isinstance(node, ast.Import):
            dotted += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join([*above, *([node.module] if node.module else [])])
            dotted += [f"{source}.{alias.name}" for alias in node.names]
    return [parts for name in dotted if (parts := tuple(name.split(".")))[0] in (*MAY_IMPORT, "tests")]


def folders(root: Path) -> list[Path]:
    """Every folder of Python, outermost first."""
    return [folder for top in MAY_IMPORT for folder in [root / top, *sorted(_subfolders(root / top))]]


def _subfolders(folder: Path) -> list[Path]:
    return [file.parent for file in folder.rglob("__init__.py") if file.parent != folder]


def places(folder: Path) -> dict[str, int]:
    """Where each file or subfolder stands in the reading order of its folder."""
    order = reading_order(folder)
    found = {name: order.index(name) if name in order else len(order) for name in modules(folder)}
    return found | {"__main__": len(order) + 1}


def violations(root: Path) -> list[str]:
    """One line for every import, and every file, that breaks the order."""
    lines: list[str] = []
    for folder in folders(root):
        name = folder.relative_to(root).as_posix()
        order, present = reading_order(folder), modules(folder)
        lines += [f"{name}: READING_ORDER names {each}, which does not exist" for each in order if each not in present]
        if name.startswith(FULLY_ORDERED):
            allowed = (*order, "__main__", *COMPATIBILITY.get(name, ()))
            lines += [f"{name}: READING_ORDER lacks {each}" for each in present if each not in allowed]
        for file in sorted(folder.glob("*.py")):
            for parts in imports(file, root):
                if problem := _problem(file, parts, root):
                    lines.append(f"{file.relative_to(root)} imports {'.'.join(parts)}{problem}")
    return lines


def _problem(file: Path, parts: tuple[str, ...], root: Path) -> str | None:
    """What is wrong with an import: the first folder that both sides share decides."""
    own = (*file.relative_to(root).parent.parts, file.stem)
    if parts[0] != own[0]:
        allowed = MAY_IMPORT[own[0]]
        return None if parts[0] in allowed else f"; {own[0]} may import {sorted(allowed) or 'none of the folders'}"
    depth = next(i for i, (a, b) in enumerate(zip((*own, ""), (*parts, ""), strict=False)) if a != b)
    folder, here = root.joinpath(*own[:depth]), (own[depth : depth + 1] or ("",))[0]
    there = parts[depth] if depth < len(parts) else ""
    if here in ("__init__", "__main__") and depth == len(own) - 1:
        return None
    if there not in modules(folder):
        return None if there == "" else " from the folder itself; import the file that defines the name"
    place = places(folder)
    late = place[there] >= place[here] if here in place else False
    return ", which does not come before it in READING_ORDER" if late else None


def test_every_import_follows_the_reading_order() -> None:
    assert modules(ROOT / "mhmoe"), "no library to check"
    assert violations(ROOT) == []


TREE = {
    "mhmoe/__init__.py": 'READING_ORDER = ("first", "second")\nfrom mhmoe.second import b\n',
    "mhmoe/first.py": "import torch\na = 1\n",
    "mhmoe/second.py": "from mhmoe.first import a\nb = a\n",
    "baselines/one.py": "from mhmoe import b\n",
    "baselines/two.py": "import mhmoe.first\n",
    "analysis/__init__.py": 'READING_ORDER: tuple[str, ...] = ("count", "deep", "show")\n',
    "analysis/count.py": "from mhmoe import first\n",
    "analysis/show.py": "from .count import first\n",
    "analysis/deep/__init__.py": 'READING_ORDER = ("low", "high")\n',
    "analysis/deep/low.py": "from analysis.count import first\n",
    "analysis/deep/high.py": "from analysis.deep.low import first\nfrom . import low\n",
    "analysis/deep/__main__.py": "from analysis.deep.high import first\n",
    "experiments/__init__.py": 'READING_ORDER = ("runner", "schema")\n',
    "experiments/runner/__init__.py": 'READING_ORDER = ("runs", "store")\n',
    "experiments/runner/runs.py": "import analysis.deep.high\n",
    "experiments/runner/store.py": "from experiments.runner import runs\n",
    "experiments/schema.py": "from analysis.count import first\n",
    "experiments/table1.py": "from baselines import one\nfrom experiments.schema import first\n",
    "experiments/__main__.py": "from experiments import table1\n",
}


def _write(root: Path, tree: dict[str, str]) -> Path:
    for name, text in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
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
        ("analysis/count.py", "from analysis.deep.low import first\n"),
        ("analysis/deep/low.py", "from analysis.deep.high import first\n"),
        ("analysis/deep/low.py", "from . import high\n"),
        ("analysis/deep/high.py", "from analysis.show import first\n"),
        ("analysis/deep/high.py", "from analysis import show\n"),
        ("analysis/deep/high.py", "from analysis.deep import first\n"),
        ("analysis/deep/unlisted.py", ""),
        ("experiments/runner/runs.py", "from experiments.runner.store import x\n"),
        ("experiments/runner/store.py", "from experiments import schema\n"),
        ("experiments/runner/store.py", "def late():\n    from experiments.schema import first\n"),
        ("experiments/runner/another.py", ""),
    ],
)
def test_a_disorderly_import_is_named(tmp_path: Path, name: str, text: str) -> None:
    tree = TREE | {"experiments/table2.py": "x = 1\n", name: text}
    (line,) = violations(_write(tmp_path, tree))
    assert name.partition("/")[0] in line


def test_no_file_of_code_is_longer_than_300_lines() -> None:
    lengths = {
        file: len(file.read_text(encoding="utf-8").splitlines())
        for top in MAY_IMPORT
        for file in (ROOT / top).rglob("*.py")
    }
    assert len(lengths) > 100
    assert [f"{file.relative_to(ROOT)}: {length}" for file, length in lengths.items() if length > 300] == []


def test_every_folder_of_tests_is_one_of_the_tree() -> None:
    tests = {file.parent.relative_to(ROOT / "tests") for file in (ROOT / "tests").rglob("test_*.py")}
    assert [str(folder) for folder in sorted(tests) if not (ROOT / folder).is_dir()] == ["gpu", "project"]


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
