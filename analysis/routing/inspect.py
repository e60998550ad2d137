"""python -m analysis.routing.inspect CHECKPOINT "some text": which expert each sub-token of each token goes to.

One line a token: the token, and for each MoE layer the experts of its sub-tokens from the first to the last,
with several choices of one sub-token joined by a comma. Colours follow the experts' numbers, which are
always printed too. `--html FILE` writes the same as one page that needs nothing from elsewhere; there,
pointing at a cell shows the gate weights and the router's favourites. `--serve` opens such a page for any text.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from analysis.routing.explorer import checkpoints
from analysis.routing.explorer import serve as explore
from analysis.routing.routing_page import page, panel
from analysis.routing.text import load_checkpoint, routing_blocks
from mhmoe.cli import exit_code
from mhmoe.commands.routed import check_unicode, routed_tokens, terminal
from mhmoe.io import UserError, check_output, write_atomically


def run(
    checkpoint: Positional[Path],
    text: Positional[str] = "",
    html: Annotated[Path | None, tyro.conf.arg(name="html")] = None,
    layer: int | None = None,
    serve: Annotated[bool, tyro.conf.arg(name="serve")] = False,
    port: int = 8000,
) -> None:
    """Show to which experts the sub-tokens of a text go.

    Args:
        checkpoint: folder of a model and its tokenizer, as save_pretrained writes it.
        text: what the model reads.
        html: write a page to this file instead of printing.
        layer: only this MoE layer, counted from 1; all if left out.
        serve: answer at the loopback address, until Ctrl-C: type a text, pick a checkpoint, or two side by side.
            `checkpoint` may then be a folder of such folders.
        port: of the address; 0 for any that is free.
    """
    if serve:
        explore(checkpoints(checkpoint), port, text)
        return
    check_unicode(text, "the text")
    if html is not None:
        check_output(html)
    model, tokenizer = load_checkpoint(checkpoint)
    blocks = routing_blocks(model)
    if layer is not None and not 1 <= layer <= len(blocks):
        raise UserError(f"--layer {layer} does not exist; the model has MoE layers 1 to {len(blocks)}")
    tokens = routed_tokens(model, tokenizer, text)
    layers = range(len(blocks)) if layer is None else [layer - 1]
    shown = [blocks[i] for i in layers]
    if html is None:
        coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        sys.stdout.write(terminal(tokens, layers, shown, coloured=coloured))
    else:
        write_atomically(html, page([panel(tokens, layers, shown)], title=f"Routing of {checkpoint.name}"))
        print(f"{html}: {len(tokens)} tokens, {len(layers)} MoE layers")


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_code(lambda: tyro.cli(run, prog="python -m analysis.routing.inspect", args=arguments))


if __name__ == "__main__":
    sys.exit(main())
