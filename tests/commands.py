"""`python -m experiments` in processes of their own, without importing torch anew for each of them.

A server process imports the libraries once and forks for every command. This file is what a forked process
reads first, so it imports nothing of ours: the command runs the code of the folder it is started in.
"""

import multiprocessing
import os
import runpy
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = ("mhmoe", "baselines", "analysis", "experiments")
LIBRARIES = (
    *("torch", "transformers.modeling_utils", "transformers.generation.utils", "transformers.convert_slow_tokenizer"),
    *("transformers.models.llama.modeling_llama", "transformers.tokenization_utils_tokenizers", "tokenizers.trainers"),
    *("jaxtyping", "tyro.extras", "typeguard", "scipy.stats", "tqdm"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg"),
)
STREAMS = ("out", "err")
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([*LIBRARIES, "tests.warm"])


@dataclass(frozen=True)
class Finished:
    """What a command left: its exit code (negative: the signal that ended it) and what it wrote."""

    code: int
    out: str
    err: str


class Command:
    """A command that is running: `work(*arguments)` in a folder."""

    def __init__(
        self, work: Callable[..., None], *arguments: object, folder: Path, environment: Mapping[str, str]
    ) -> None:
        self._said = Path(tempfile.mkdtemp(prefix="command-"))
        self.process = SERVER.Process(target=_begin, args=(work, arguments, folder, dict(environment), self._said))
        self.process.start()

    def said(self, stream: str = "out") -> str:
        """What it wrote until now."""
        path = self._said / stream
        return path.read_text() if path.exists() else ""

    def wait(self) -> Finished:
        self.process.join(300)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError("the command hangs")
        finished = Finished(self.process.exitcode, *map(self.said, STREAMS))
        shutil.rmtree(self._said)
        return finished

    def kill_when(self, reached: Callable[[], bool]) -> Finished:
        """End it with SIGKILL as soon as `reached`, wherever it is then."""
        while not reached() and self.process.is_alive():
            time.sleep(0.005)
        self.process.kill()
        return self.wait()


@dataclass(frozen=True)
class Project:
    """A folder with a copy of the code, so that results and caches are its own."""

    root: Path

    @classmethod
    def new(cls, root: Path) -> "Project":
        for folder in CODE:
            shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
        return cls(root)

    @property
    def results(self) -> Path:
        return self.root / "results"

    def copied(self, root: Path) -> "Project":
        return Project(shutil.copytree(self.root, root))

    def start(self, *arguments: str, **environment: str) -> Command:
        return Command(_module, "experiments", arguments, folder=self.root, environment=environment)

    def run(self, *arguments: str, **environment: str) -> Finished:
        return self.start(*arguments, **environment).wait()

    def files(self) -> dict[str, bytes]:
        """Every file of results/ and of the cache, locks apart: what a command may have left behind."""
        found = (path for folder in ("results", ".cache") for path in (self.root / folder).rglob("*"))
        files = (path for path in found if path.is_file() and "locks" not in path.parts)
        return {str(path.relative_to(self.root)): path.read_bytes() for path in files}


def module(name: str, *arguments: str, **environment: str) -> Command:
    """`python -m name arguments` from the repository's root, started."""
    return Command(_module, name, arguments, folder=ROOT, environment=environment)


def program(code: str, *arguments: object, **environment: str) -> Command:
    """`python -c code arguments` from the repository's root, started."""
    return Command(_program, code, [*map(str, arguments)], folder=ROOT, environment=environment)


def _begin(
    work: Callable[..., None], arguments: Sequence[object], folder: Path, environment: dict[str, str], said: Path
) -> None:
    for name, descriptor in zip(STREAMS, (1, 2), strict=True):
        os.dup2(os.open(said / name, os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.pop("MHMOE_DATA", None)
    os.environ.update({"CUDA_VISIBLE_DEVICES": "", **environment})
    os.chdir(folder)
    sys.path[:0] = [str(folder)]
    work(*arguments)


def _module(name: str, arguments: Sequence[str]) -> None:
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _program(code: str, arguments: Sequence[str]) -> None:
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<program>", "exec"), {"__name__": "__main__"})
