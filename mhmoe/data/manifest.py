"""A folder of packed JSON lines whose manifest has the hash of every file.

manifest.json is {"files": [{"file": path inside the folder, "sha256": hex}, ...]}. A file is
gzip of lines, each a JSON object with at least a `text`. Nothing is read that the manifest does
not vouch for, and damage is named by file and line. A manifest may also say of which "kind" the
data are: "generated" where a program made them up.
"""

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mhmoe.io import UserError, sha256_of

DATA_VARIABLE = "MHMOE_DATA"
LOCAL, GENERATED = "local", "generated"


@dataclass(frozen=True)
class DataFolder:
    """A folder, the sha256 of every file that its manifest lists, and of which kind it says they are. Make it with
    `DataFolder.at`."""

    path: Path
    sha256: Mapping[str, str]
    kind: str = LOCAL

    @classmethod
    def at(cls, path: Path | None) -> "DataFolder":
        """Open a folder; None means the environment variable MHMOE_DATA.

        Raises UserError if there is no folder, or its manifest is missing or damaged.
        """
        folder = path or Path(os.environ.get(DATA_VARIABLE, ""))
        if folder == Path():
            raise UserError(f"no data folder is given; set {DATA_VARIABLE} to a folder that has a manifest.json")
        manifest = folder / "manifest.json"
        if not os.path.isfile(manifest):
            raise UserError(f"data folder {folder} has no manifest.json; set {DATA_VARIABLE} to one that has")
        try:
            listing = json.loads(manifest.read_bytes())
            sha256 = {entry["file"]: entry["sha256"] for entry in listing["files"]}
            return cls(folder, sha256, str(listing.get("kind", LOCAL)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{manifest} is not a manifest ({error!r}); fetch it again") from None

    def checked(self, names: Iterable[str]) -> dict[str, str]:
        """The hashes of files of text, which are those of their bytes. Raises UserError, naming the damage, if not."""
        names = sorted(names)
        for name in names:
            if sha256_of(self._existing(name)) != self.sha256[name]:
                self.lines(name)  # finds and names the damage
        return {name: self.sha256[name] for name in names}

    def hash_of(self, name: str) -> str:
        """The hash of a file of any kind, which is that of its bytes. Raises UserError if not."""
        path = self._existing(name)
        if sha256_of(path) != self.sha256[name]:
            raise UserError(f"{path} is damaged: its sha256 is not the one in manifest.json; fetch it again")
        return self.sha256[name]

    def lines(self, name: str) -> list[tuple[int, bytes]]:
        """The lines of a file that are not empty, counted from 1, after its hash was checked.

        Raises UserError, naming file and line, on what is missing, changed or corrupt.
        """
        path = self._existing(name)
        packed = path.read_bytes()
        try:
            raw, damage = gzip.decompress(packed), ""
        except (OSError, EOFError, zlib.error) as error:
            raw, damage = b"", f" ({error})"
        lines = [(number, line) for number, line in enumerate(raw.split(b"\n"), 1) if line.strip()]
        if sha256_of(packed) != self.sha256[name]:
            for number, line in lines:
                self.parse(line, name, number)  # a corrupt line says more than a wrong hash
            damage = f": its sha256 is not the one in manifest.json{damage}"
        if damage:
            raise UserError(f"{path} is damaged{damage}; fetch it again, or correct the manifest if you changed it")
        return lines

    def parse(self, line: bytes, name: str, number: int) -> dict[str, Any]:
        """The object of a line, whose `text` is a string; that and its source and id can be written as UTF-8. Raises
        UserError if it is none."""
        try:
            record = json.loads(line)
            record["text"].encode()
            for field in ("source", "id"):
                str(record.get(field)).encode()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            reason = "no text field" if isinstance(error, KeyError) else str(error)
            raise UserError(
                f"{self.path / name}, line {number}, is not a JSON object with a text ({reason}); fetch the file again"
            ) from None
        return record

    def _existing(self, name: str) -> Path:
        path = self.path / name
        if not path.is_file():
            raise UserError(f"{path} is missing; fetch it again or leave it out")
        if name not in self.sha256:
            raise UserError(f"{path} is not listed in manifest.json; add its sha256 there")
        return path
