"""`inspect`: which experts the sub-tokens of a text go to, on the terminal.

One line a token, a column a sub-token, for each MoE layer. In the repository `python -m analysis.routing.inspect` also
writes a page, with weights and probabilities.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tokenizers import Tokenizer
from tyro.conf import Positional

from mhmoe.commands.options import Whole
from mhmoe.commands.routed import check_unicode, routed_tokens, terminal
from mhmoe.data.tokenizer import bare
from mhmoe.io import UserError
from mhmoe.layers.balance import mixtures
from mhmoe.model.checkpoints import load
from mhmoe.model.language_model import MHMoEForCausalLM


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Show to which experts the sub-tokens of a text go.

    Attributes:
        model: a folder that `train` wrote, or any of save_pretrained with one of our models and its tokenizer.
        text: what the model reads.
        layer: only this MoE layer, counted from 1; all if left out.
    """

    model: Annotated[Positional[Path], tyro.conf.arg(metavar="MODEL")]
    text: str
    layer: Whole = None


def inspect(command: Inspect) -> str:
    """What is printed. Raises UserError if the model has no experts, or not that layer."""
    check_unicode(command.text, "the text")
    model, tokenizer = load(str(command.model), device="cpu")
    if not isinstance(model, MHMoEForCausalLM):
        raise UserError(f"{command.model} holds a model of type {model.config.model_type!r}, not 'mhmoe'")
    inner = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(inner, Tokenizer):
        raise UserError(f"{command.model} has a {type(tokenizer).__name__}, which does not say where a token stands")
    blocks = [number for number, block in enumerate(model.model.layers, 1) if mixtures(block)]
    if blocks and command.layer is not None and not 1 <= command.layer <= len(blocks):
        raise UserError(f"--layer {command.layer} does not exist; the model has MoE layers 1 to {len(blocks)}")
    tokens = routed_tokens(model, bare(inner), command.text)
    layers = range(len(blocks)) if command.layer is None else [command.layer - 1]
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return terminal(tokens, layers, [blocks[i] for i in layers], coloured=coloured)
