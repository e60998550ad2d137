"""What every run must state.

A record is one JSON file under results/runs/<scale>/. Its fingerprint is the hash of what
determines the numbers (model, training, data hashes, seed) and of nothing else: not the
commit, not the machine. A record whose fingerprint is not the one declared is stale. Its digest
is the hash of all that it says, so that a change by hand is found.
"""

import contextlib
import dataclasses
import functools
import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

from mhmoe.fields import Count, Range
from mhmoe.from_json import from_json
from mhmoe.io import UserError, parse_json, read_json, sha256_of, write_atomically
from mhmoe.training.record_checks import Evaluation, GitState, Point, Provenance, check_record

SCHEMA_VERSION = 1
_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "datasets", "lm_eval")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One finished run. Units: nats, tokens, bytes, seconds; FLOPs are of the forward pass."""

    name: str
    fingerprint: str
    scale: str
    task: str
    system: str
    seed: Annotated[int, Range(least=0, below=2**32)]
    config: dict[str, Any]
    provenance: Provenance
    steps: Count
    tokens: Count
    wall_seconds: Annotated[float, Range(above=0)]
    peak_memory_bytes: Count
    parameters: Count
    active_parameters: Count
    flops_per_token: Count
    metrics: dict[str, Evaluation]
    curve: list[Point] = field(default_factory=list[Point])
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """The text of its file."""
        return json.dumps(dataclasses.asdict(self) | {"digest": self.digest()}, separators=(",", ":")) + "\n"

    def save(self, path: Path) -> None:
        write_atomically(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> "Record":
        """Read and check a record. Raises UserError with the reason when it is not a valid one."""
        return cls.from_dict(read_json(path, "record", "run it again or remove it"), where=str(path))

    @classmethod
    def load_lines(cls, path: Path) -> "list[Record]":
        """Read and check a file of several, one a line. Raises UserError likewise."""
        try:
            lines = [parse_json(line) for line in path.read_bytes().splitlines()]
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"records {path} cannot be read ({error}); run them again or remove it") from None
        return [cls.from_dict(raw, where=f"{path}, line {number}") for number, raw in enumerate(lines, 1)]

    @classmethod
    def from_dict(cls, raw: Any, where: str = "record") -> "Record":
        """Check what `save` wrote, or what was written before there was a digest. Raises UserError likewise."""
        if not isinstance(raw, dict):
            raise UserError(f"{where}: a record is a JSON object, this is a {type(raw).__name__}")
        if raw.get("schema_version") != SCHEMA_VERSION:
            raise UserError(
                f"{where}: schema_version={raw.get('schema_version')!r}, this version reads {SCHEMA_VERSION}"
            )
        content = {name: value for name, value in raw.items() if name != "digest"}
        try:
            record = from_json(cls, content)
            if (expected := fingerprint(record.config, record.seed)) != record.fingerprint:
                raise ValueError(f"fingerprint {record.fingerprint} does not belong to its config ({expected})")
            check_record(content)
            digest = sha256_of(canonical_json(content)) if "digest" in raw else None
        except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
            raise UserError(f"{where}: {error}") from None
        if digest != raw.get("digest"):
            raise UserError(f"{where} was changed after it was written: digest is not that of the rest; run it again")
        return record

    def digest(self) -> str:
        """Hash of everything that the record says; stands in its file beside it."""
        return sha256_of(canonical_json(dataclasses.asdict(self)))


def by_seed(records: Sequence[Record]) -> dict[int, Record]:
    """One system's records by seed. UserError if two records claim the same seed."""
    found: dict[int, Record] = {}
    for record in records:
        if other := found.get(record.seed):
            both = f"records {other.name} and {record.name} both are"
            raise UserError(f"{both} {record.system}, seed {record.seed}; remove one")
        found[record.seed] = record
    return dict(sorted(found.items()))


def canonical_json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def fingerprint(config: Mapping[str, Any], seed: int) -> str:
    """Hash (16 hex digits) of what determines a run's numbers."""
    return sha256_of(canonical_json({"config": config, "seed": seed}))[:16]


def provenance(command: str, device: str, threads: int) -> Provenance:
    """Where a run came from: command, commit, versions, machine. Not part of the fingerprint."""
    return {
        "command": command,
        **git_state(),
        "versions": dict(_versions()),
        "device": device,
        "threads": threads,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@functools.cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def without_place(argument: str, here: Path | None = None) -> str:
    """An argument of a command as records have it: an absolute path by its name alone, or as it is from `here`."""
    option, equals, value = argument.rpartition("=")
    path = Path(value)
    if not path.is_absolute():
        return argument
    return option + equals + (str(path.relative_to(here)) if here and path.is_relative_to(here) else path.name)


def git_state() -> GitState:
    """Commit of the code that runs, and whether files other than results differ from it.

    Records appear while runs go on, so changes under results/ do not make a tree dirty.
    """
    here = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != here:
            raise OSError("installed in another project's tree, whose commit says nothing of this code")
        commit = git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(git("status", "--porcelain", "--", ".", ":!results"))}
    except (OSError, subprocess.CalledProcessError):
        # A copied tree without git says so by these variables, which whoever copies it sets.
        return {
            "commit": os.environ.get("MHMOE_COMMIT", "unknown"),
            "dirty": "MHMOE_COMMIT" not in os.environ,
        }
