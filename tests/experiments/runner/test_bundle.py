"""New records in a tar file: those of a call that was killed too, and none twice."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from experiments.runner.bundle import Bundle, check_bundle
from mhmoe.io import UserError


def write(results: Path, name: str) -> None:
    path = results / "runs" / "mini" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)


def names(out: Path) -> list[str]:
    with tarfile.open(out) as tar:
        return [Path(entry.name).name for entry in tar]


def test_what_a_killed_call_has_written_is_in_the_file_of_the_next(tmp_path: Path) -> None:
    results, out, cache = tmp_path / "results", tmp_path / "new.tar", tmp_path / "cache"
    write(results, "earlier.json")
    Bundle.begun(results, out, cache)
    write(results, "of_the_killed.json")
    again = Bundle.begun(results, out, cache)
    write(results, "new.json")
    assert again.write() == 2 and names(out) == ["new.json", "of_the_killed.json"]
    assert Bundle.begun(results, out, cache).write() == 0 and names(out) == ["new.json", "of_the_killed.json"]
    Bundle.begun(results, tmp_path / "other.tar", cache)
    write(results, "last.json")
    assert Bundle.begun(results, out, cache).write() == 0, "an own listing for each file"
    assert Bundle.begun(results, tmp_path / "other.tar", cache).write() == 1


def link_to_nothing() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        entry = tarfile.TarInfo("link")
        entry.type, entry.linkname = tarfile.SYMTYPE, "gone"
        tar.addfile(entry)
    return packed.getvalue()


CUT = gzip.compress(b"x" * 99_999, mtime=0)[:-40]


@pytest.mark.parametrize("content", [b"", b"text", CUT, link_to_nothing()], ids=["empty", "text", "cut", "link"])
def test_a_file_that_nothing_can_be_added_to_is_named_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "new.tar").write_bytes(content)
    with pytest.raises(UserError, match=r"new\.tar is there and is no tar file .*; name another --out") as refused:
        check_bundle(tmp_path / "new.tar")
    assert "\n" not in str(refused.value)
