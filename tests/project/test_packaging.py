"""What surrounds the code agrees with itself: pyproject, lock, environment, wheel, Makefile, README."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.fresh_install import build_wheel, pins

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LIBRARY = [Requirement(text) for text in PROJECT["dependencies"]]
EXPERIMENTS, CLUSTER, DEV, DOCS = (
    [Requirement(text) for text in PROJECT["optional-dependencies"][extra]]
    for extra in ("experiments", "cluster", "dev", "docs")
)
FOLDERS = {
    "mhmoe": LIBRARY,
    "baselines": LIBRARY,
    "analysis": LIBRARY + EXPERIMENTS,
    "experiments": LIBRARY + EXPERIMENTS,
    "benchmarks": LIBRARY + EXPERIMENTS,
    "docs": [],  # mkdocs is run, not imported
    "tests": LIBRARY + EXPERIMENTS + CLUSTER + DEV,
}
OURS = {*FOLDERS, "conftest"}
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *(str(p.relative_to(ROOT)) for p in sorted((ROOT / "docs").rglob("*.md")))]


def lock(file: str = "requirements.lock") -> dict[str, str]:
    """Name to version, of every line of a lock file; any line but `name==version` is refused."""
    pins: dict[str, str] = {}
    for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([a-z0-9.-]+)==([A-Za-z0-9.!]+)", line)
            assert match, f"{file}: {line!r} is not name==version without a local suffix"
            pins[canonicalize_name(match[1])] = match[2]
    return pins


@pytest.mark.parametrize("requirement", LIBRARY + EXPERIMENTS + CLUSTER + DEV, ids=str)
def test_the_locked_version_is_one_that_pyproject_allows(requirement: Requirement) -> None:
    version = lock().get(canonicalize_name(requirement.name))
    assert version is not None, f"requirements.lock lacks {requirement.name}; run make lock"
    assert requirement.specifier.contains(version), f"{requirement} does not allow the locked {version}"


@pytest.mark.parametrize("requirement", DOCS, ids=str)
def test_the_documentation_is_built_with_versions_that_pyproject_allows(requirement: Requirement) -> None:
    version = lock("docs/requirements.txt").get(canonicalize_name(requirement.name))
    assert version is not None, f"docs/requirements.txt lacks {requirement.name}; run make lock"
    assert requirement.specifier.contains(version), f"{requirement} does not allow the locked {version}"


def test_the_lowest_versions_that_the_wheel_is_tried_with_are_the_bounds() -> None:
    pinned = [Requirement(pin) for pin in pins("lowest")[1]]
    bounds = {f"{pin.name}>={str(pin.specifier).removeprefix('==')}" for pin in pinned}
    declared = [requirement for requirement in LIBRARY if ">" in str(requirement.specifier)]
    assert {f"{r.name}{s}" for r in declared for s in r.specifier if s.operator != "<"} == bounds != set()


def test_the_wheel_is_tried_on_the_locked_torch_and_whatever_else_is_newest() -> None:
    assert pins("locked-torch")[1] == [f"torch=={lock()['torch']}"]


def test_the_build_backend_is_locked() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]
    (backend,) = map(Requirement, build["requires"])
    assert backend.specifier.contains(lock()[backend.name])


def test_the_lock_draws_no_cuda_packages() -> None:
    assert [name for name in lock() if name.startswith(("nvidia", "triton", "cuda"))] == []


def test_the_environment_lists_every_direct_dependency_with_the_locked_version() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    *pins, ourselves = pip
    assert ourselves == "-e ."
    direct = {canonicalize_name(requirement.name) for requirement in LIBRARY + EXPERIMENTS + CLUSTER + DEV}
    assert dict(pin.split("==") for pin in pins) == {
        name: version for name, version in lock().items() if name in direct
    }


def imports(tree: ast.AST, late: bool = False) -> set[tuple[str, bool]]:
    """(top-level module, whether it is imported inside a function) of every absolute import."""
    found: set[tuple[str, bool]] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found |= {(alias.name.partition(".")[0], late) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add((node.module.partition(".")[0], late))
        else:
            found |= imports(node, late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_only_packages_that_are_declared_for_it(folder: str) -> None:
    """Inside a function, where its absence can be explained, a file may also import what is optional."""
    distributions = packages_distributions()
    undeclared: set[str] = set()
    for file in (ROOT / folder).rglob("*.py"):
        for name, late in imports(ast.parse(file.read_text(encoding="utf-8"))):
            requirements = FOLDERS[folder] + (EXPERIMENTS + CLUSTER if late else [])
            declared = {canonicalize_name(requirement.name) for requirement in requirements}
            sources = {canonicalize_name(source) for source in distributions.get(name, ())}
            if name == "triton" and file.name.startswith("triton_"):  # the extra; next test
                continue
            if (name, file.name, late) == ("quack", "fused_products.py", True) and "quack" in PROJECT[
                "optional-dependencies"
            ]:
                continue
            if name not in OURS and name not in sys.stdlib_module_names and not sources & declared:
                undeclared.add(f"{file.relative_to(ROOT)} imports {name}")
    assert sorted(undeclared) == []


def test_files_that_need_triton_are_imported_inside_functions_alone() -> None:
    """So `import mhmoe` works without it."""
    assert "triton" in PROJECT["optional-dependencies"]
    for file in (ROOT / "mhmoe").rglob("*.py"):
        if not file.name.startswith("triton_"):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
            assert not any("triton" in ast.unparse(node) for node in top), file


def test_the_wheel_ships_the_whole_library_and_nothing_else(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path)
    source = tmp_path / "source"
    shipped = set(zipfile.ZipFile(wheel).namelist())
    library = {path.relative_to(source).as_posix() for path in (source / "mhmoe").rglob("*.py")}
    assert library
    assert library <= shipped
    assert {name.partition("/")[0] for name in shipped} == {"mhmoe", f"mhmoe-{PROJECT['version']}.dist-info"}
    assert "mhmoe/py.typed" in shipped


def test_the_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def defined_targets() -> list[str]:
    """Targets of the Makefile as regular expressions; a % stands for the number of a table or figure."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return [name.replace("%", r"\d+") for name in re.findall(r"^([a-z0-9%-]+):(?!=)", makefile, flags=re.MULTILINE)]


def mentioned_targets(document: str) -> list[str]:
    """Every X of `make X` in a code block or in code within a line."""
    text = (ROOT / document).read_text(encoding="utf-8")
    code = re.findall(r"^```.*?^```|`[^`\n]+`", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\bmake ((?!\w+=)[\w-]+)(?![\w<-])", "\n".join(code))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_in_the_documents_exists(document: str) -> None:
    mentioned = mentioned_targets(document)
    assert mentioned or document.startswith("docs/"), f"{document} names no make target"
    defined = defined_targets()
    assert [name for name in mentioned if not any(re.fullmatch(pattern, name) for pattern in defined)] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_table_and_figure_that_the_documents_make_is_declared(document: str) -> None:
    stems = {name.removeprefix("reproduce-") for name in mentioned_targets(document) if name[-1].isdigit()}
    assert [stem for stem in sorted(stems) if not list((ROOT / "experiments").glob(f"{stem}_*.py"))] == []


def test_make_alone_explains_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    shown = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    listed = re.findall(r"^  make ([a-z0-9<>-]+)", shown, flags=re.MULTILINE)
    assert [name.replace("<n>", "%") for name in listed] == re.findall(
        r"^([a-z0-9%-]+):(?!=)", makefile, flags=re.MULTILINE
    )


@pytest.mark.parametrize(
    "target",
    [
        *("claims", "report", "status", "reproduce-table2", "reproduce-v2-table3", "figure7", "ablate-heads"),
        *("compare-systems", "compare-combinations"),
    ],
)
def test_every_command_of_a_make_target_takes_its_scale(target):
    planned = subprocess.run(
        ["make", "-n", "-o", "setup", target, "SCALE=smoke"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    commands = [line for line in planned.stdout.splitlines() if "-m experiments" in line]
    assert commands and all("--scale smoke" in command for command in commands)
