"""bash in a folder with a copy of the code, in which every Python starts at once.

Importing torch takes a process five seconds. Here one process imports the code of the folder and forks for each
command: the programs in .venv/bin hand it their arguments, environment and streams, and end with its exit code.
This file is what that process reads first, so it imports nothing of ours.
"""

import importlib
import json
import os
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from tests.commands import CODE, ROOT, SERVER

COPIED = (*CODE, "benchmarks", "docs", "Makefile", "README.md", "pyproject.toml", "requirements.lock")
IMPORTED = ("experiments.__main__", "mhmoe.__main__")
PROGRAMS = {"python": [], "torchrun": ["-m", "torch.distributed.run"], "lm_eval": ["-m", "lm_eval"]}
PROGRAM = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as process:
    process.connect({address!r})
    socket.send_fds(process, [b"."], [0, 1, 2])
    process.sendall(json.dumps([{begin!r} + sys.argv[1:], os.getcwd(), dict(os.environ)]).encode())
    process.shutdown(socket.SHUT_WR)
    sys.exit(int(process.makefile().read() or 1))
"""
_IDLE = 300  # seconds without a command after which the process ends by itself
_NOT_OURS = ("GIT_", "MAKE", "MHMOE_", "MFLAGS")


@dataclass(frozen=True)
class Ended:
    """A command of a script, and what it left."""

    command: str
    code: int
    out: str
    err: str


class Shell:
    """Commands in `folder`, where `.venv/bin` comes first in the PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, commands: Sequence[str]) -> list[Ended]:
        """One bash for all of them, up to the first that fails."""
        with tempfile.TemporaryDirectory(prefix="shell-") as said:
            script = "".join(f"exec >{said}/{i}.out 2>{said}/{i}.err\n{each}\n" for i, each in enumerate(commands))
            own = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_OURS)}
            own |= {"PATH": f"{self.folder / '.venv' / 'bin'}:{own['PATH']}", "CUDA_VISIBLE_DEVICES": ""}
            own |= {"MHMOE_CACHE": str(self.folder / ".cache" / "mhmoe")}
            bash = ["bash", "-eu", "-o", "pipefail", "-c", script]
            code = subprocess.run(bash, cwd=self.folder, env=own, stdin=subprocess.DEVNULL, timeout=600).returncode
            ended: list[Ended] = []
            for i, command in enumerate(commands):
                out, err = Path(said, f"{i}.out"), Path(said, f"{i}.err")
                if out.exists():
                    ended.append(Ended(command, 0, out.read_text(), err.read_text()))
        return [*ended[:-1], replace(ended[-1], code=code)]


@contextmanager
def shell(folder: Path, appended: Mapping[str, str]) -> Generator[Shell]:
    """A shell in a new folder. appended: to files of the copied code."""
    for name in COPIED:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy2)(ROOT / name, folder / name)
    for name, code in appended.items():
        with (folder / name).open("a") as file:
            file.write(code)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="shell-") as place, socket.socket(socket.AF_UNIX) as listening:
        address = f"{place}/socket"  # in the test's own folder it might be longer than an address may be
        for name, begin in PROGRAMS.items():
            (programs / name).write_text(PROGRAM.format(python=sys.executable, address=address, begin=begin))
            (programs / name).chmod(0o755)
        (folder / ".venv" / ".installed").touch()  # so that make has nothing to set up
        listening.bind(address)
        listening.listen()
        process = SERVER.Process(target=_serve, args=(folder, listening))
        process.start()
        try:
            yield Shell(folder)
        finally:
            process.kill()
            process.join()


def _serve(folder: Path, listening: socket.socket) -> None:
    os.chdir(folder)
    sys.path[:0] = [str(folder)]
    sys.executable = str(folder / ".venv" / "bin" / "python")  # by which commands start others
    for name in IMPORTED:
        importlib.import_module(name)
        del sys.modules[name]  # what it imports stays
    listening.settimeout(_IDLE)
    with suppress(TimeoutError):
        while True:
            connection, _ = listening.accept()
            if os.fork() == 0:
                connection.setblocking(True)
                _become_a_command(connection)
            connection.close()


def _become_a_command(connection: socket.socket) -> NoReturn:
    _, descriptors, _, _ = socket.recv_fds(connection, 1, 3)
    arguments, folder, environment = json.load(connection.makefile())
    for stream, descriptor in enumerate(descriptors):
        os.dup2(descriptor, stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    code = _code_of(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(str(code).encode())
    os._exit(code)


def _code_of(arguments: Sequence[str]) -> int:
    """The exit code of `python arguments`, run here."""
    try:
        option, module, *rest = arguments[1:] if arguments[0] == "-u" else arguments
        if option != "-m":
            raise ValueError(f"only `python -m MODULE` is run here, not {arguments}")
        sys.argv = [module, *rest]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
