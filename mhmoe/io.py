"""Files that are whole or not there, and that are what was written when they are read again.

A file is written beside its place, flushed to disk and renamed; so is a folder. What a killed process leaves is
found by its name, and by its lock, which ends with the process. A sealed file begins with the hash of the rest; a
sealed folder has a listing with the hash of every file and its own.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SEAL = b"mhmoe sealed 1 "
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class UserError(Exception):
    """Something the user can mend: one line saying what, where and what to do."""


class RunError(UserError):
    """A mistake, or bad luck, of one training run: others may well succeed."""


def sha256_of(source: Path | bytes | memoryview) -> str:
    if not isinstance(source, Path):
        return hashlib.sha256(source).hexdigest()
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def at_home(path: Path | str) -> Path:
    """With ~ as the home folder, as a shell has it in `--out ~/x` and not in `--out=~/x`; else as it is."""
    return Path(os.path.expanduser(path))


# ---- whole or not there ---------------------------------------------------------------------


def write_atomically(path: Path, *pieces: bytes | memoryview | str) -> None:
    """Write beside `path`, fsync, rename: a crash or a full disk leaves the old file as it was."""
    temporary = None
    try:
        _check_replaceable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = _new_file(path)
        with os.fdopen(handle, "wb") as file:
            for piece in pieces:
                file.write(piece.encode() if isinstance(piece, str) else piece)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise UserError(f"cannot write {path}: {error.strerror or error}; the old file, if any, is untouched") from None


@contextmanager
def new_folder(folder: Path, *, replace: bool = False) -> Generator[Path]:
    """A temporary folder that becomes `folder` in one step when all went well, else vanishes.

    Where `folder` is there by then, it is replaced or stays, as is asked. Raises UserError if it cannot be written.
    """
    temporary, handle = None, None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = _new_file(folder, is_folder=True)
        yield temporary
        temporary.chmod(0o755)
        if replace:
            shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except OSError as error:
        if replace or not folder.is_dir():  # else another process was faster with the same
            raise UserError(
                f"cannot write {folder}: {error.strerror or error}; nothing of it was left behind"
            ) from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half-written in `folder`; what others write just now stays."""
    for path in folder.glob(".*.writing-*"):
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY)
            try:
                if _lock(handle):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(handle)


def check_writable(folder: Path) -> None:
    """Raises UserError if no file can be made in `folder`, which is made if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror or error}; make it writable") from None


def check_output(path: Path) -> None:
    """Raises UserError unless a file can be written at `path`; makes its folder if need be, and nothing else."""
    try:
        str(path).encode()
        _check_replaceable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.writing-"):
            pass
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise UserError(
            f"cannot write {path}: {getattr(error, 'strerror', None) or error}; name another file"
        ) from None


def _check_replaceable(path: Path) -> None:
    """Raises UserError if there is something else than a file: to rename over a device would replace it."""
    if os.path.lexists(path) and not path.is_file():
        raise UserError(f"cannot write {path}: it is {'a folder' if path.is_dir() else 'no file'}; name a file")


def _new_file(path: Path, is_folder: bool = False) -> tuple[int, Path]:
    """A new temporary file or folder beside `path`, locked as long as its descriptor is open."""
    prefix = f".{path.name}.writing-"
    while True:
        if is_folder:
            name = tempfile.mkdtemp(dir=path.parent, prefix=prefix)
            try:
                handle = os.open(name, os.O_RDONLY)
            except FileNotFoundError:  # removed as a leftover, before it was opened
                continue
        else:
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix)
        _lock(handle, wait=True)
        if os.path.exists(name):  # else it was removed as a leftover, before it was locked
            return handle, Path(name)
        os.close(handle)


def _lock(handle: int, *, wait: bool = False) -> bool:
    """Whether the file is locked for this process now. Where the system knows no locks, nothing ever is. wait: for a
    process that has it, and is removing it."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    except (ImportError, OSError):
        return False


# ---- what was written -----------------------------------------------------------------------


def write_sealed(path: Path, payload: bytes | memoryview) -> None:
    """Write `payload` atomically, with its hash before it."""
    write_atomically(path, _SEAL, sha256_of(payload), "\n", payload)


def read_sealed(path: Path) -> memoryview:
    """What `write_sealed` wrote. Raises ValueError if it is anything else, OSError if it cannot be read."""
    head, payload = len(_SEAL) + 64 + 1, memoryview(path.read_bytes())
    if payload[: len(_SEAL)] != _SEAL:
        raise ValueError("it does not begin with its hash, as a file that this version wrote would")
    if payload[len(_SEAL) : head] != f"{sha256_of(payload[head:])}\n".encode():
        raise ValueError("it was changed: its sha256 is not the one it begins with")
    return payload[head:]


def seal_folder(folder: Path, name: str, identity: Mapping[str, Any]) -> None:
    """Write the listing `name` of a finished folder: `identity`, the size and hash of every file, and its own hash."""
    files = {p.name: {"bytes": p.stat().st_size, "sha256": sha256_of(p)} for p in _listed(folder, name)}
    listing = {**identity, "files": files}
    text = json.dumps(listing | {"sha256": _hash_of(listing)}, indent=1, sort_keys=True)
    write_atomically(folder / name, text + "\n")


def check_sealed_folder(folder: Path, name: str, advice: str, **identity: Any) -> dict[str, Any]:
    """The listing of a folder in which every file is the one that was sealed, and no other.

    Raises UserError, ending in `advice`, if a file is missing, cut short, changed, or was added, or if the folder
    was sealed with another `identity`.
    """
    listing = read_json(folder / name, "listing", advice)
    try:
        for key, value in identity.items():
            if listing.get(key) != value:
                raise UserError(f"{folder} has {key} {listing.get(key)!r}, not {value!r}; {advice}")
        files = {file: (entry["bytes"], entry["sha256"]) for file, entry in listing["files"].items()}
        is_own = listing.pop("sha256") == _hash_of(listing)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / name} is damaged ({error!r}); {advice}") from None
    if not is_own:
        raise UserError(f"{folder / name} was changed, its sha256 is not its own; {advice}")
    for file, (size, sha256) in files.items():
        path = folder / file
        if not path.is_file():
            raise UserError(f"{path} is missing; {advice}")
        if (actual := path.stat().st_size) != size:
            raise UserError(f"{path} has {actual} bytes instead of {size}; {advice}")
        if sha256_of(path) != sha256:
            raise UserError(f"{path} was changed, its sha256 is not the recorded one; {advice}")
    if added := [path for path in _listed(folder, name) if path.name not in files]:
        raise UserError(f"{added[0]} does not belong there; {advice}")
    return listing


def _listed(folder: Path, name: str) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and p.name != name and not p.name.startswith("."))


def _hash_of(value: Any) -> str:
    return sha256_of(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


# ---- JSON of any origin ---------------------------------------------------------------------


def read_json(path: Path, what: str, advice: str) -> Any:
    """What a JSON file holds. Raises UserError in one line, beginning with `what` it is, if it is not one."""
    try:
        return parse_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist; {advice}") from None
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{what} {path} is not readable JSON ({error}); {advice}") from None


def parse_json(raw: bytes) -> Any:
    """Strictly: UTF-8 without lone surrogates, no NaN or Infinity, no key twice.

    Raises ValueError, or RecursionError if it is nested too deeply.
    """
    value = json.loads(raw.decode(), parse_constant=_refuse_constant, object_pairs_hook=_unique)
    if _SURROGATE.search(raw):
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found
