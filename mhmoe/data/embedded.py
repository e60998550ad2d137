"""Text that is always there: the documentation strings of the standard library and of the scientific packages."""

import ast
import hashlib
import importlib.util
import json
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from mhmoe.data.corpora import SPLITS, Document, check_split, order_key
from mhmoe.fields import Count, check_fields
from mhmoe.io import UserError

_PACKAGES = ("numpy", "pandas", "scipy", "matplotlib")
_SKIPPED_FOLDERS = {
    *("test", "tests", "testing", "idlelib", "lib2to3", "turtledemo", "ensurepip", "pydoc_data"),
    *("site-packages", "dist-packages", "lib-dynload", "_vendor", "extern", "externals"),
}
_SHORTEST_DOCSTRING = 200  # characters; what is shorter is mostly a signature in words


@dataclass(frozen=True, kw_only=True)
class EmbeddedCorpus:
    """English prose of the documentation strings that are installed anyway; no download.

    One document a module: its docstrings of at least 200 characters, without doctest blocks and
    without any docstring that an earlier module has. Modules come in the order of the hash of
    their path, so that the first characters are a mixture of all packages; the hash also gives
    the split (90, 5 and 5 percent of the modules). Nothing is imported, sources are parsed.

    max_characters: stop after the module that reaches it, all splits together. A split that gets
    no module is a UserError.
    """

    kind: ClassVar[str] = "embedded"
    max_characters: Count = 4_000_000

    def __post_init__(self) -> None:
        check_fields(self)

    def documents(self, split: str) -> Iterator[Document]:
        """Raises ValueError on an unknown split."""
        check_split(split)
        yield from _embedded_documents(self.max_characters)[split]

    def fingerprint(self) -> dict[str, Any]:
        """The documents' own hash; the versions beside it say why two machines may differ."""
        texts = _embedded_documents(self.max_characters)
        whole = hashlib.sha256(
            json.dumps([[d.source, d.id, d.text] for split in SPLITS for d in texts[split]]).encode()
        )
        versions = {"python": platform.python_version()}
        versions |= {package: metadata.version(package) for package in _package_folders()}
        return {
            "kind": self.kind,
            "max_characters": self.max_characters,
            "versions": versions,
            "sha256": whole.hexdigest(),
        }


@cache
def _modules() -> dict[str, tuple[str, Path]]:
    """Package and file of every module, in the order of the hash of its name."""
    folders = {"python": Path(sysconfig.get_paths()["stdlib"]), **_package_folders()}
    modules: dict[str, tuple[str, Path]] = {}
    for package, folder in folders.items():
        for path in folder.rglob("*.py"):
            inside = path.relative_to(folder)
            if _SKIPPED_FOLDERS.isdisjoint(inside.parts):
                modules[f"{package}/{inside.as_posix()}"] = (package, path)
    return dict(sorted(modules.items(), key=lambda item: order_key(item[0])))


@cache
def _embedded_documents(max_characters: int) -> dict[str, list[Document]]:
    texts: dict[str, list[Document]] = {split: [] for split in SPLITS}
    characters, seen = 0, set[str]()
    for name, (package, path) in _modules().items():
        if characters >= max_characters:
            break
        new = [text for text in _docstrings(path) if text not in seen]
        if new:
            seen.update(new)
            text = "\n\n".join(dict.fromkeys(new))
            characters += len(text)
            texts[_split_of(name)].append(Document(text, package, name))
    for split, found in texts.items():
        if not found:
            raise UserError(f"max_characters={max_characters} leaves the {split} split empty; take more")
    return texts


def _package_folders() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)  # finds a top-level package without importing it
        if spec is not None and spec.submodule_search_locations:
            found[package] = Path(spec.submodule_search_locations[0])
    return found


def _split_of(name: str) -> str:
    # The last bytes: the first ones already order the modules, and `max_characters` cuts that order.
    hundredth = int.from_bytes(order_key(name)[-4:]) % 100
    return "train" if hundredth < 90 else "valid" if hundredth < 95 else "test"


def _docstrings(path: Path) -> list[str]:
    """The prose of a source file's long docstrings, in the order of the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's docstrings
            module = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []  # templates of code generators
    found: list[str] = []
    pending: list[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef] = [module]
    while pending:
        node = pending.pop()
        text = _without_doctests(ast.get_docstring(node) or "")
        if len(text) >= _SHORTEST_DOCSTRING:
            found.append(text)
        children = [c for c in node.body if isinstance(c, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
        pending.extend(reversed(children))
    return found


def _without_doctests(text: str) -> str:
    paragraphs = re.split(r"\n\s*\n", text)
    prose = "\n\n".join(p for p in paragraphs if not p.lstrip().startswith(">>>")).strip()
    return prose.encode(errors="ignore").decode()  # an escaped lone surrogate is no UTF-8
