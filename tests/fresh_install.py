"""Install the wheel afresh and use it: `python -m tests.fresh_install lowest newest torch==2.11.0`.

    lowest          every lower bound of pyproject.toml, as the exact version
    newest          what pip draws today
    NAME==VERSION   what pip draws today with it
    locked-torch    what pip draws today with the torch of requirements.lock, which `make setup` fetched already;
                    part of `make check`, so that a release of anything else that breaks us is noticed

A new environment holds the wheel and what pip draws with it, and nothing else; it runs `tests/fresh_checks.py` in an
empty folder. Exit code 1 if anything fails, or if the package index cannot be reached (then 0 with --skip-offline).
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
WORK = ROOT / ".cache" / "fresh-install"
PIP = ["-m", "pip", "--disable-pip-version-check", "--quiet"]
# What pip says when it cannot reach an index; that it then finds no version is no news about the package.
UNREACHABLE = ("connection broken by", "Max retries exceeded")


def pins(versions: str) -> tuple[str, list[str]]:
    """`versions`, and what pip is asked for beside the wheel. Raises ArgumentTypeError if it is none of the above."""
    if versions == "newest":
        return versions, []
    if versions == "locked-torch":
        lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
        return versions, re.findall(r"^torch==.*$", lock, re.MULTILINE)
    if versions == "lowest":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        ranges = map(Requirement, project["dependencies"])
        return versions, [
            f"{r.name}=={bound.version}" for r in ranges for bound in r.specifier if bound.operator == ">="
        ]
    if not re.fullmatch(r"[\w.-]+==[\w.]+", versions):
        known = "give lowest, newest, locked-torch or such as torch==2.11.0"
        raise argparse.ArgumentTypeError(f"{versions!r} is not known; {known}")
    return versions, [versions]


def build_wheel(folder: Path) -> Path:
    """The wheel of the working tree, made from a copy in `folder`: building leaves folders beside the source."""
    source = folder / "source"
    unwanted = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "results")
    shutil.copytree(ROOT, source, ignore=unwanted)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, *PIP, "wheel", *options, str(source)], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, pinned: list[str], environment: Path) -> Path:
    """Python of a new environment with the wheel. Raises ConnectionError without an index, else RuntimeError."""
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin" / "python"
    command = [str(python), *PIP, "install", "--no-compile", str(wheel), *pinned]
    installed = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if installed.returncode:
        if any(sign in installed.stderr for sign in UNREACHABLE):
            raise ConnectionError("the package index cannot be reached")
        raise RuntimeError(f"pip cannot install it:\n{installed.stderr}")
    return python


def works(versions: str, pinned: list[str]) -> bool:
    """Whether the wheel does all that `fresh_checks.py` asks, with these versions."""
    start = time.monotonic()
    empty = WORK / "empty"
    empty.mkdir(parents=True)
    wheel = build_wheel(WORK)
    print(f"{versions}: pip install {' '.join([wheel.name, *pinned])}", flush=True)
    python = install(wheel, pinned, WORK / "environment")
    print(f"{versions}: installed in {time.monotonic() - start:.0f} s", flush=True)
    # What turns graphs into code is torch's alone: at its locked version capturing them is all that could change.
    compiler = any(map(shutil.which, ("g++", "c++", "clang++")))
    backend = "inductor" if compiler and versions != "locked-torch" else "aot_eager"
    own = {"HF_HOME": str(WORK / "hf"), "TORCHINDUCTOR_CACHE_DIR": str(WORK / "inductor")}
    fixed = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [str(python), "-I", str(ROOT / "tests" / "fresh_checks.py"), backend, versions.removesuffix("-torch")]
    passed = subprocess.run(command, cwd=empty, env=os.environ | own | fixed, check=False).returncode == 0
    print(f"{versions}: {'works' if passed else 'DOES NOT WORK'}, {time.monotonic() - start:.0f} s", flush=True)
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="+", type=pins)
    parser.add_argument("--skip-offline", action="store_true")
    arguments = parser.parse_args()
    failed: list[str] = []
    for versions, pinned in arguments.versions:
        shutil.rmtree(WORK, ignore_errors=True)
        try:
            failed += [] if works(versions, pinned) else [versions]
        except (ConnectionError, RuntimeError) as error:
            print(f"{versions}: NOT CHECKED, {error}", file=sys.stderr)
            failed += [] if arguments.skip_offline and isinstance(error, ConnectionError) else [versions]
        finally:
            shutil.rmtree(WORK, ignore_errors=True)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
