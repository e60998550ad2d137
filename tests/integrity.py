"""What happens to a run that is killed, and to its files when they are damaged: all of it, in a few minutes.

    python -m tests.integrity [kills] [damages]

The tests take a share of it. A run of a dense and of an MH-MoE model is killed at random moments of its packing,
training, measuring and writing, and started again each time; it must end with the bytes of one never killed. Files
of a finished run are then damaged, one at a time: reading them must end in one line, or in the same results.
"""

import dataclasses
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.kinds.routing import EXPERT_ACTIVATION
from experiments.kinds.table import Row, Table
from experiments.runner.launch import Options, run_all
from experiments.scales import Scale
from experiments.systems import dense, mhmoe
from mhmoe.io import UserError
from mhmoe.training.loop import train
from tests import tiny
from tests.commands import program
from tests.mini import MINI, at_rate
from tests.tiny import ZipfText

SCALE = dataclasses.replace(
    at_rate(MINI, 0.01),
    corpus=ZipfText,
    training={"steps": 40, "batch_sequences": 4, "length": 16, "evaluations": 8, "evaluation_windows": 8},
)
PAGE = Table(
    slug="table99_integrity",
    title="Integrity",
    rows=(Row(system=dense()), Row(system=mhmoe(8, "compute"))),
    measurements=(EXPERT_ACTIVATION,),
)
PROGRAM = """
import functools, sys
from pathlib import Path
from experiments.runner import execute
import mhmoe.training.loop
from tests.integrity import finish
execute.train = functools.partial(mhmoe.training.loop.train, checkpoint_seconds=0.0)
print("begun", flush=True)
finish(Path(sys.argv[1]))
"""


def finish(folder: Path, scale: Scale = SCALE) -> None:
    """Everything of the experiment, in `folder`; goes on where a killed process stopped."""
    options = Options(seeds=(1,), results=folder / "results", cache=folder / "cache")
    assert run_all(PAGE, scale, options)


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run leaves, without what time and place it took: files' bytes, and records' numbers."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if name.startswith("results"):
            if path.suffix == ".json":
                found[name] = _numbers(json.loads(path.read_bytes()))
        elif path.is_file() and not name.startswith("cache/locks"):
            found[name] = path.read_bytes()
    return found


def _numbers(raw: dict[str, Any]) -> dict[str, Any]:
    passing = {"provenance", "wall_seconds", "peak_memory_bytes", "digest"}
    kept = {name: value for name, value in raw.items() if name not in passing}
    curve = [{name: value for name, value in point.items() if name != "seconds"} for point in raw.get("curve", ())]
    return kept | {"curve": curve}


# ---- killed ---------------------------------------------------------------------------------


def killed_and_finished(folder: Path, seconds: float, draw: random.Random) -> float:
    """Kill a run that takes so many seconds of work at a random moment of them, and finish it.

    One that ended first is no kill: it is removed and begun again. Returns how many seconds a run really takes.
    """
    while True:
        run = program(PROGRAM, folder)
        while "begun" not in run.said() and run.process.is_alive():
            time.sleep(0.002)
        begun = time.monotonic()
        run.process.join(draw.uniform(0, seconds))
        ended = run.kill_when(lambda: True)
        if ended.code == -signal.SIGKILL:
            finish(folder)
            return seconds
        assert ended.code == 0, ended.err
        seconds = time.monotonic() - begun
        shutil.rmtree(folder)


# ---- damaged --------------------------------------------------------------------------------


def flipped(data: bytes, draw: random.Random) -> bytes:
    """One bit of it turned."""
    place = draw.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]


def zeroed(data: bytes, draw: random.Random) -> bytes:
    """Up to 512 bytes of it, of which one was not zero, zeroed: a block that was never written."""
    while True:
        place = draw.randrange(len(data))
        damaged = data[:place] + bytes(len(data[place : place + 512])) + data[place + 512 :]
        if damaged != data:
            return damaged


def cut(data: bytes, draw: random.Random) -> bytes:
    """Cut short."""
    return data[: draw.randrange(len(data))]


DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (flipped, zeroed, cut)


def after_damage(folder: Path, path: Path, damaged: bytes, whole: dict[str, Any]) -> str:
    """What comes of a damaged file of `folder` where its models are measured once more: "found" in one line,
    "harmless" where the results are the same, or "wrong". The folder is put right again."""
    data = path.read_bytes()
    path.write_bytes(damaged)
    shutil.rmtree(folder / "results" / "measurements")
    try:
        finish(folder)
    except UserError as error:
        path.write_bytes(data)
        finish(folder)
        return "found" if "\n" not in str(error) else "wrong"
    ours = outcome(folder)
    path.write_bytes(data)
    same = all(ours.get(name) == value for name, value in whole.items() if name.startswith("results"))
    return "harmless" if same else "wrong"


def damage_checkpoint(folder: Path, damages: int, draw: random.Random) -> Counter[str]:
    """The same for the checkpoint of a run that is half done: how often each came of it."""
    folder.mkdir()
    text, path, counts = tiny.text(folder), folder / "run.pt", Counter[str]()
    config = dataclasses.replace(tiny.TRAINING, steps=6, length=16)

    def go_on(**options: Any) -> list[bytes] | None:
        model = tiny.model("mhmoe_compute")
        done = train(model, text, config, seed=0, checkpoint=path, **options)
        return None if done is None else [tensor.numpy().tobytes() for tensor in model.state_dict().values()]

    assert go_on(deadline=0.0) is None
    data = path.read_bytes()
    whole = go_on()
    for number in range(damages):
        path.write_bytes(DAMAGES[number % 3](data, draw))
        try:
            counts["harmless" if go_on() == whole else "wrong"] += 1
        except UserError as error:
            counts["found" if "\n" not in str(error) else "wrong"] += 1
    return counts


def main() -> None:
    kills, damages = (int(argument) for argument in [*sys.argv[1:], "20", "100"][:2])
    draw, counts = random.Random(0), Counter[tuple[str, str]]()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        begun = time.monotonic()
        finish(folder / "whole")
        seconds, whole = time.monotonic() - begun, outcome(folder / "whole")
        same = 0
        for number in range(kills):
            seconds = killed_and_finished(folder / "killed", seconds, draw)
            same += outcome(folder / "killed") == whole
            shutil.rmtree(folder / "killed")
            print(f"{number + 1} killed at work, {same} finished bit-identical", flush=True)
        for found, count in damage_checkpoint(folder / "checkpoint", damages // 4, draw).items():
            counts["checkpoint", found] = count
        files = [folder / "whole" / name for name in whole if "measurements" not in name]
        for number in range(damages - damages // 4):
            path = files[number % len(files)]
            damaged = DAMAGES[draw.randrange(3)](path.read_bytes(), draw)
            counts[str(path.relative_to(folder / "whole")), after_damage(folder / "whole", path, damaged, whole)] += 1
        for (name, found), count in sorted(counts.items()):
            print(f"{count:4} {found:9} {name}")


if __name__ == "__main__":
    main()
