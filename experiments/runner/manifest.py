"""SHA256SUMS beside the records: a file edited by hand does not pass for what a run wrote.

One for each folder results/runs/<scale> and results/measurements/<scale>, as sha256sum reads it:
`cd results/runs/cpu && sha256sum --check SHA256SUMS`.
"""

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mhmoe.io import UserError, sha256_of, write_atomically

NAME = "SHA256SUMS"


def write_listed(path: Path, text: str, folder: Path) -> None:
    """List a file's new hash, then write it, both whole or not at all. Several processes may do so at once.

    In this order: a process killed between the two leaves a run that is not done, which is done again.
    Raises UserError if nothing can be written, or the manifest is damaged.
    """
    _list(folder, path, sha256_of(text.encode()))
    write_atomically(path, text)


def register(path: Path, folder: Path) -> None:
    """List a file as it lies there."""
    _list(folder, path, sha256_of(path))


def unlist(path: Path, folder: Path) -> None:
    """Take a file off the list, before it is removed."""
    with _locked(folder):
        entries = _read(folder)
        entries.pop(path.relative_to(folder).as_posix(), None)
        _write(folder, entries)


def differences(folder: Path) -> list[str]:
    """One line for every file of the folder that is not as it is listed. Raises UserError if the list is damaged."""
    listed = _read(folder)
    files = [*folder.rglob("*.json"), *folder.rglob("*.jsonl")]
    found = {path.relative_to(folder).as_posix(): path for path in files}
    problems = {name: "was changed" for name in listed.keys() & found.keys() if sha256_of(found[name]) != listed[name]}
    problems |= dict.fromkeys(found.keys() - listed.keys(), f"is not in {NAME}")
    problems |= dict.fromkeys(listed.keys() - found.keys(), "is missing")
    return [f"{folder.parent.name}/{folder.name}/{name} {problem}" for name, problem in sorted(problems.items())]


def _list(folder: Path, path: Path, sha256: str) -> None:
    with _locked(folder):
        _write(folder, _read(folder) | {path.relative_to(folder).as_posix(): sha256})


def _write(folder: Path, entries: Mapping[str, str]) -> None:
    write_atomically(folder / NAME, "".join(f"{of}  {name}\n" for name, of in sorted(entries.items())))


def _read(folder: Path) -> dict[str, str]:
    try:
        lines = (folder / NAME).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / NAME} cannot be read ({error}); restore it from git") from None
    entries = [line.partition("  ") for line in lines]
    for number, (sha256, _, name) in enumerate(entries, 1):
        if len(sha256) != 64 or not name:
            raise UserError(f"{folder / NAME}, line {number}, is not a sha256 and a name; restore it from git")
    return {name: sha256 for sha256, _, name in entries}


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}; nothing was written") from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
