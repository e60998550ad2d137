"""New records and measurements in one tar file, to be carried elsewhere and taken in there by `register`."""

import io
import json
import tarfile
import zlib
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from mhmoe.io import UserError, check_output, parse_json, write_atomically


@dataclass(frozen=True)
class Bundle:
    """What `results` has, and had not when this was begun; `before` is kept in a file, as a call may be killed."""

    results: Path
    out: Path
    before: Path

    @classmethod
    def begun(cls, results: Path, out: Path, cache: Path) -> "Bundle":
        """By this call, or by an earlier one that was killed before it wrote `out`."""
        place = sha256(str(out.absolute()).encode()).hexdigest()[:16]
        bundle = cls(results, out, cache / "bundles" / f"{place}.json")
        if not bundle.before.exists():
            write_atomically(bundle.before, json.dumps(bundle._listing()))
        return bundle

    def write(self) -> int:
        """Put what is new into the file; returns how many.

        What an earlier call has put there stays, for the same command goes on where its time was over. Raises UserError
        if the file cannot be written, or is no tar file.
        """
        before = parse_json(self.before.read_bytes())
        new = {
            name: (self.results / name).read_bytes()
            for name, written in sorted(self._listing().items())
            if before.get(name) != written
        }
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name, content in sorted({**_bundled(self.out), **new}.items()):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        write_atomically(self.out, packed.getvalue())
        self.before.unlink()
        return len(new)

    def _listing(self) -> dict[str, int]:
        """All records and measurements with the times they were written at."""
        files = [path for kind in ("runs", "measurements") for path in (self.results / kind).rglob("[!.]*.json*")]
        return {str(path.relative_to(self.results)): path.stat().st_mtime_ns for path in files}


def check_bundle(out: Path) -> None:
    """Raises UserError if no bundle can be written there, or a file is there that none can be added to."""
    check_output(out)
    _bundled(out)


def _bundled(out: Path) -> dict[str, bytes]:
    if not out.exists():
        return {}
    try:
        with tarfile.open(out) as tar:
            files = {entry.name: tar.extractfile(entry) for entry in tar}
            return {name: file.read() for name, file in files.items() if file is not None}
    except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{out} is there and is no tar file ({reason}); name another --out") from None
