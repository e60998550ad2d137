"""What every run must state, and how it is written: whole or not at all.

A record is one JSON file under results/runs/<scale>/. Its fingerprint is the hash of what
determines the numbers (model, training, data hashes, seed) and of nothing else: not the
commit, not the machine. A record whose fingerprint is not the one declared is stale.
"""

import dataclasses
import hashlib
import json
import math
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "datasets", "lm_eval")


class UserError(Exception):
    """Something the user can mend: one line saying what, where and what to do."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One finished run. Units: nats, tokens, bytes, seconds; FLOPs are of the forward pass."""

    name: str
    fingerprint: str
    scale: str
    task: str
    system: str
    seed: int
    config: dict[str, Any]
    provenance: dict[str, Any]
    steps: int
    tokens: int
    wall_seconds: float
    peak_memory_bytes: int
    parameters: int
    active_parameters: int
    flops_per_token: int
    metrics: dict[str, dict[str, Any]]
    curve: list[dict[str, Any]] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION

    def save(self, path: Path) -> None:
        write_atomically(path, json.dumps(dataclasses.asdict(self), separators=(",", ":")) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Record":
        """Read and check a record. Raises UserError with the reason when it is not a valid one."""
        try:
            raw = json.loads(path.read_text())
        except FileNotFoundError:
            raise UserError(f"record {path} does not exist") from None
        except (ValueError, OSError) as error:
            raise UserError(f"record {path} is not readable JSON ({error}); run it again or remove it") from None
        return cls.from_dict(raw, where=str(path))

    @classmethod
    def from_dict(cls, raw: Any, where: str = "record") -> "Record":
        if not isinstance(raw, dict):
            raise UserError(f"{where}: a record is a JSON object, this is a {type(raw).__name__}")
        if raw.get("schema_version") != SCHEMA_VERSION:
            raise UserError(
                f"{where}: schema_version={raw.get('schema_version')!r}, this version reads {SCHEMA_VERSION}"
            )
        fields = {f.name: f for f in dataclasses.fields(cls)}
        unknown, missing = sorted(raw.keys() - fields.keys()), sorted(fields.keys() - raw.keys())
        if unknown or missing:
            raise UserError(f"{where}: unknown fields {unknown}, missing fields {missing}")
        for name, value in raw.items():
            wanted: Any = fields[name].type
            wanted = getattr(wanted, "__origin__", wanted)
            if wanted is float and isinstance(value, int):
                continue
            if not isinstance(value, wanted) or isinstance(value, bool):
                raise UserError(f"{where}: {name}={value!r} is not of type {wanted.__name__}")
        record = cls(**raw)
        if (expected := fingerprint(record.config, record.seed)) != record.fingerprint:
            raise UserError(f"{where}: fingerprint {record.fingerprint} does not belong to its config ({expected})")
        if not record.metrics:
            raise UserError(f"{where}: metrics is empty; a record has at least one evaluation")
        for split, evaluation in record.metrics.items():
            _check_evaluation(evaluation, f"{where}: metrics.{split}")
        return record


def _check_evaluation(evaluation: Any, where: str) -> None:
    """The summary figures must follow from the documents they summarise."""
    documents = evaluation.get("documents") if isinstance(evaluation, dict) else None
    if not isinstance(documents, list) or not documents or not all(isinstance(d, dict) for d in documents):
        raise UserError(f"{where} has no documents")
    for name in ("nll", "tokens", "bytes"):
        if not all(_is_finite(d.get(name)) for d in documents):
            raise UserError(f"{where}: a document has no finite {name}")
    for name in ("tokens", "bytes"):
        if not sum(d[name] for d in documents) > 0:
            raise UserError(f"{where}: its documents have no {name}")
    for name, value in summarise_documents(documents).items():
        if not _is_finite(evaluation.get(name)) or not math.isclose(evaluation[name], value, rel_tol=1e-6):
            raise UserError(f"{where}.{name}={evaluation.get(name)} does not follow from its documents ({value})")


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def summarise_documents(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """Perplexity per token and bits per byte from each document's summed nll (nats), tokens and bytes."""
    nll, tokens, size = (sum(d[name] for d in documents) for name in ("nll", "tokens", "bytes"))
    return {
        "perplexity": math.exp(min(nll / tokens, 700.0)),  # exp overflows a float beyond 709
        "nll_per_token": nll / tokens,
        "bits_per_byte": nll / math.log(2) / size,
        "tokens": tokens,
        "bytes": size,
    }


def fingerprint(config: Mapping[str, Any], seed: int) -> str:
    """Hash (16 hex digits) of what determines a run's numbers."""
    canonical = json.dumps({"config": config, "seed": seed}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def sha256_of(source: Path | bytes) -> str:
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def provenance(command: str, device: str, threads: int) -> dict[str, Any]:
    """Where a run came from: command, commit, versions, machine. Not part of the fingerprint."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "command": command,
        **git_state(),
        "versions": versions,
        "device": device,
        "threads": threads,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def git_state() -> dict[str, Any]:
    """Commit of the code that runs, and whether files other than results differ from it.

    Records appear while runs go on, so changes under results/ do not make a tree dirty.
    """
    here = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(git("status", "--porcelain", "--", ".", ":!results"))}
    except (OSError, subprocess.CalledProcessError):
        # A copied tree without git says so by these variables, which whoever copies it sets.
        return {
            "commit": os.environ.get("MHMOE_COMMIT", "unknown"),
            "dirty": "MHMOE_COMMIT" not in os.environ,
        }


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write beside `path`, fsync, rename: a crash or a full disk leaves the old file as it was."""
    raw = data.encode() if isinstance(data, str) else data
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_temporary_prefix(path))
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise UserError(f"cannot write {path}: {error.strerror or error}; the old file, if any, is untouched") from None


def remove_leftovers(path: Path) -> None:
    """Remove what a killed `write_atomically` left beside `path`; for files that nobody else writes now."""
    if path.parent.is_dir():
        for entry in path.parent.iterdir():
            if entry.name.startswith(_temporary_prefix(path)):
                entry.unlink(missing_ok=True)


def _temporary_prefix(path: Path) -> str:
    return f".{path.name}.writing-"
