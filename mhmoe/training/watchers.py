"""Who writes down what is watched: a log in JSON lines, TensorBoard, Weights & Biases or trackio.

    training.jsonl    a line a step that is told, {"step": ..., "task_loss": ..., "loads": [[...], ...], ...}, and
                      one a point of the curve, {"evaluation": {"step": ..., "valid_nll": ...}, "alike": [...], ...}

A run that goes on from a checkpoint goes on writing after the step of that checkpoint. What is not installed is a
UserError that says what to install.
"""

import dataclasses
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from mhmoe.io import UserError, parse_json, write_atomically
from mhmoe.training.watch import Evaluated, Step, Watcher

_CELL = 8  # pixels of the heatmap


class JsonLines(Watcher):
    """Writes the log; each line is there as soon as it is told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None

    def on_begin(self, step: int) -> None:
        """Lines of later steps, which are done again, are dropped."""
        kept = [line for line in read_log(self.path) if step_of(line) <= step] if step else []
        write_atomically(self.path, "".join(f"{json.dumps(line)}\n" for line in kept))
        self._file = self.path.open("a", encoding="utf-8")

    def on_step(self, step: Step) -> None:
        self._write(dataclasses.asdict(step))

    def on_evaluation(self, found: Evaluated) -> None:
        self._write({"evaluation": found.point, "alike": found.alike, "dropped": found.dropped})

    def on_end(self) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last one that was cut off is left out. [] if there is none. Raises UserError, naming file
    and line, where one is damaged."""
    if not path.is_file():
        return []
    lines: list[dict[str, Any]] = []
    for number, raw in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            lines.append(parse_json(raw))
            step_of(lines[-1])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError(
                f"log {path}, line {number}, is damaged ({error!r}); remove it, the run goes on without"
            ) from None
    return lines


def step_of(line: Mapping[str, Any]) -> int:
    """Of a line of either kind."""
    return line["evaluation"]["step"] if "evaluation" in line else line["step"]


class TensorBoard(Watcher):
    """Writes into a folder for `tensorboard --logdir FOLDER`: numbers, and each layer's load over time as a picture."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError("--tensorboard needs the package tensorboard; run: pip install tensorboard") from None
        self._make, self.folder = SummaryWriter, folder
        self._writer: Any = None
        self._loads: list[list[list[float]]] = []

    def on_begin(self, step: int) -> None:
        self._writer = self._make(str(self.folder), purge_step=step + 1 if step else None)

    def on_step(self, step: Step) -> None:
        self._loads.append(step.loads)
        for name, value in numbers_of_step(step).items():
            self._writer.add_scalar(name, value, step.step)

    def on_evaluation(self, found: Evaluated) -> None:
        step = found.point["step"]
        for name, value in numbers_of_evaluation(found).items():
            self._writer.add_scalar(name, value, step)
        for layer in range(len(self._loads[-1]) if self._loads else 0):
            image = heatmap([loads[layer] for loads in self._loads])
            self._writer.add_image(f"load/layer {layer + 1}, experts by time", image, step, dataformats="HWC")

    def on_end(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Tracker(Watcher):
    """Sends the numbers to a project of Weights & Biases or of trackio, whose functions are the same."""

    def __init__(self, package: str, project: str, name: str, config: Mapping[str, Any]) -> None:
        try:
            self._package = importlib.import_module(package)
        except ImportError:
            raise UserError(f"--{package} needs the package {package}; run: pip install {package}") from None
        self.project, self.name, self.config = project, name, dict(config)
        self._run: Any = None

    def on_begin(self, step: int) -> None:
        self._run = self._package.init(project=self.project, name=self.name, config=self.config)

    def on_step(self, step: Step) -> None:
        self._run.log(numbers_of_step(step), step=step.step)

    def on_evaluation(self, found: Evaluated) -> None:
        self._run.log(numbers_of_evaluation(found), step=found.point["step"])

    def on_end(self) -> None:
        if self._run is not None:
            self._run.finish()


def numbers_of_step(step: Step) -> dict[str, float]:
    """By the names that are shown. The largest load is in even shares: 1 where all experts have as much."""
    names = ("task_loss", "balance_loss", "learning_rate", "gradient_norm", "tokens_per_second")
    numbers = {f"training/{name}": getattr(step, name) for name in names}
    return numbers | {f"largest load/layer {i}": len(load) * max(load) for i, load in enumerate(step.loads, 1)}


def numbers_of_evaluation(found: Evaluated) -> dict[str, float]:
    numbers = {"valid/nll": found.point["valid_nll"], "valid/bits_per_byte": found.point["valid_bits_per_byte"]}
    for name, layers in (("experts alike", found.alike), ("dropped", found.dropped)):
        numbers |= {f"{name}/layer {i}": value for i, value in enumerate(layers, 1) if value is not None}
    return numbers


def heatmap(loads: list[list[float]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """[experts, times] of loads as a picture [height, width, 3]: white none, black twice the even share and above.

    A column a step, from the first to the last; an expert a line.
    """
    table = np.array(loads).T
    share = np.clip(table * len(table) / 2, 0.0, 1.0)
    grey = np.rint(255 * (1 - share)).astype(np.uint8)
    return np.repeat(np.kron(grey, np.ones((_CELL, _CELL), dtype=np.uint8))[..., None], 3, axis=-1)
