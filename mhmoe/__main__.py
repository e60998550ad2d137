"""python -m mhmoe train | eval | inspect | match | upcycle: own text, own models.

python -m mhmoe train --data my.txt              a text, to a model folder in Hugging Face's format
python -m mhmoe eval my-mhmoe --data my.txt      perplexity and bits per byte of what it did not read
python -m mhmoe inspect my-mhmoe --text "..."    the experts that each part of each token goes to
python -m mhmoe match --dim 768                  the sizes of a layer
python -m mhmoe upcycle MODEL --out FOLDER       a dense model as a mixture that starts from it
"""

import os

# torch reads it before its first allocation: large pages spare CPU training a third of its time.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import signal
import sys
from collections.abc import Sequence
from typing import Annotated

from transformers.utils import logging as transformers_logging
from tyro.conf import arg
from tyro.extras import SubcommandApp

from mhmoe.cli import exit_code
from mhmoe.commands.inspect import Inspect
from mhmoe.commands.inspect import inspect as inspect_text
from mhmoe.commands.match import Match
from mhmoe.commands.match import match as match_sizes
from mhmoe.commands.options import Train
from mhmoe.commands.score import Evaluate
from mhmoe.commands.score import evaluate as evaluate_model
from mhmoe.commands.train import train as train_model
from mhmoe.commands.upcycle import Upcycle
from mhmoe.commands.upcycle import upcycle as upcycle_model
from mhmoe.io import UserError
from mhmoe.training.allocator import keep_freed_memory

app = SubcommandApp()


@app.command
def train(command: Annotated[Train, arg(name="")]) -> None:
    """Train a language model on text of your own."""
    train_model(command)


@app.command(name="eval")
def eval_(command: Annotated[Evaluate, arg(name="")]) -> None:
    """Score a model: on a text, on tasks, or both."""
    print(evaluate_model(command))


@app.command
def inspect(command: Annotated[Inspect, arg(name="")]) -> None:
    """Show to which experts the sub-tokens of a text go."""
    sys.stdout.write(inspect_text(command))


@app.command
def match(command: Annotated[Match, arg(name="")]) -> None:
    """Print the sizes of MH-MoE: as printed, at equal parameters, at equal FLOPs."""
    print(match_sizes(command))


@app.command
def upcycle(command: Annotated[Upcycle, arg(name="")]) -> None:
    """Make a dense model a mixture that starts from what it has learned."""
    print(upcycle_model(command))


def _end(*_: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else list(arguments)

    def command() -> None:
        transformers_logging.disable_progress_bar()  # of writing a model, which takes no time
        for argument in given:
            if argument != argument.encode(errors="replace").decode():
                raise UserError(f"the argument {argument.encode(errors='replace').decode()!r} is not UTF-8; rename it")
        app.cli(prog="python -m mhmoe", description=__doc__, args=given)

    if given[:1] != ["train"]:
        return exit_code(command)
    return exit_code(command, interrupted="interrupted; the same command goes on from the last checkpoint")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)  # as Ctrl-C: nothing half-written stays
    keep_freed_memory()
    sys.exit(main())
