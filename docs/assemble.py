"""The pages as mkdocs reads them: docs/, with what commands print, and beside them the pages of results/.

Links in docs/ are those of the repository, so that they also work where the files are read as they are; here they
become those of the site. A block of kind `console` holds one command, and below it comes what it prints:

    $ python -m experiments run --help

`make docs` runs it: python -m docs.assemble FOLDER
"""

import contextlib
import io
import os
import posixpath
import re
import runpy
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from docs.numbers import rows_of, with_numbers

ROOT = Path(__file__).parents[1]
BESIDE = ("CONTRIBUTING.md", "CHANGELOG.md", *(f"results/**/*.{kind}" for kind in ("md", "csv", "png")))
WIDTH = "100"  # characters of what commands print
COMMAND = re.compile(r"^```console\n\$ (.*)\n```$", flags=re.MULTILINE)
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")
PICTURE = re.compile(r"(?<!\[)(!\[[^\]]*\]\(([^)]+)\))")
WIDE = "---\nhide: [toc]\n---\n\n"  # what a page of wide tables begins with


def sources() -> dict[str, Path]:
    """Every file of the site, by its place in it, and where it lies."""
    files = [path for kind in ("md", "ipynb", "css") for path in (ROOT / "docs").rglob(f"*.{kind}")]
    pages = {path.relative_to(ROOT / "docs").as_posix(): path for path in files}
    beside = {path.relative_to(ROOT).as_posix(): path for pattern in BESIDE for path in ROOT.glob(pattern)}
    return pages | {place: path for place, path in beside.items() if not place.startswith("results/smoke/")}


def with_links_of_the_site(text: str, place: str, path: Path) -> str:
    """Links of a page to files of the repository, as links within the site. Raises ValueError where one leads out."""
    places = {file: at for at, file in sources().items()}

    def link(found: re.Match[str]) -> str:
        target = (path.parent / found[1]).resolve()
        if target not in places:
            raise ValueError(f"{path.relative_to(ROOT)} links to {found[1]}, which is no page of the site")
        return posixpath.relpath(places[target], posixpath.dirname(place) or ".")

    return LINK.sub(link, text)


def with_pictures_to_open(text: str) -> str:
    """Every picture as a link to itself: the column is narrower than most."""
    return PICTURE.sub(r"[\1](\2)", text)


def with_outputs(text: str, output: Callable[[str], str]) -> str:
    """The page with what its commands print."""
    return COMMAND.sub(lambda found: f"```console\n$ {found[1]}\n{output(found[1])}\n```", text)


def printed(command: str) -> str:
    """What `make`, or a `python -m MODULE ... --help`, prints. Raises ValueError on any other command."""
    words = command.split()
    if words == ["make"]:
        alone = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
        return subprocess.run(words, cwd=ROOT, env=alone, capture_output=True, text=True, check=True).stdout.rstrip()
    if words[:2] != ["python", "-m"] or words[-1] != "--help":
        raise ValueError(f"{command!r} is not run for a page; let it be make, or end in --help")
    earlier, sys.argv = sys.argv, words[2:]
    try:
        with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
    finally:
        sys.argv = earlier
    lines = shown.getvalue().strip("\n").replace(f"{ROOT}/", "").splitlines()
    return "\n".join(line.rstrip() for line in lines)


def assemble(folder: Path) -> None:
    """Write all files of the site's source into a folder, new."""
    shutil.rmtree(folder, ignore_errors=True)
    for place, path in sources().items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            text = with_numbers(path.read_text(encoding="utf-8"), rows_of())
            text = with_pictures_to_open(with_links_of_the_site(text, place, path))
            begin = WIDE if place.startswith("results/") else ""
            target.write_text(begin + with_outputs(text, printed), encoding="utf-8")
        else:
            shutil.copyfile(path, target)


if __name__ == "__main__":
    os.environ |= {"COLUMNS": WIDTH, "NO_COLOR": "1", "TERM": "dumb"}
    warnings.simplefilter("ignore", RuntimeWarning)  # a command that is also imported by another
    assemble(Path(sys.argv[1]))
