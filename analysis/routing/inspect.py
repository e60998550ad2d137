"""python -m analysis.routing.inspect CHECKPOINT "some text": which expert each sub-token of each token goes to.

One line a token: the token, and for each MoE layer the experts of its sub-tokens from the first to the last,
with several choices of one sub-token joined by a comma. Colours follow the experts' numbers, which are
always printed too. `--html FILE` writes the same as one page that needs nothing from elsewhere; there,
pointing at a cell shows the gate weights and the router's favourites.
"""

import os
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from unicodedata import east_asian_width

import numpy as np
import tyro
from jinja2 import Template
from markupsafe import Markup, escape
from tokenizers import Tokenizer
from tyro.conf import Positional

from analysis.routing.text import check_unicode, encode, load_checkpoint, route, windows_of_ids
from mhmoe.cli import exit_code
from mhmoe.io import UserError, check_output, write_atomically
from mhmoe.model.language_model import MHMoEForCausalLM

# Tol's light qualitative scheme: black text reads on all of them, and colour-blind people tell them apart.
_COLOURS = ("#77AADD", "#EE8866", "#EEDD88", "#FFAABB", "#99DDFF", "#44BB99", "#BBCC33", "#AAAA00", "#DDDDDD")
_FAVOURITES = 3  # of the router, shown on hover
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #111;
  background: #fff }
h1 { font-size: 1.3rem } h2 { font-size: 1.05rem; margin: 1.6rem 0 .5rem } .note { color: #555; font-size: .9rem }
.text { display: flex; flex-wrap: wrap; gap: .55rem .3rem }
.token { display: flex; flex-direction: column; align-items: flex-start; border-left: 2px solid #ccc;
  padding-left: .3rem }
.piece { font: 14px/1.5 ui-monospace, monospace; white-space: pre }
.space { color: #aaa }
.layer { display: flex; gap: 1px; margin-top: 2px }
.expert { font: 11px/1.55 ui-monospace, monospace; min-width: 1.35rem; text-align: center; padding: 0 2px;
  border-radius: 2px; cursor: help; color: #000 }
.legend .expert { display: inline-block; margin: 0 3px 3px 0 }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p class="note">{{ note }}</p>
<div class="text">
{% for piece, layers in tokens -%}
<div class="token"><span class="piece">{{ piece }}</span>
{%- for cells in layers %}<span class="layer">
{%- for expert, hover in cells -%}
<span class="expert" style="background:{{ colour(expert) }}" title="{{ hover }}">{{ expert }}</span>
{%- endfor %}</span>{% endfor %}</div>
{% endfor -%}
</div>
<h2>Experts that were chosen</h2>
<p class="legend">
{%- for expert, hover in chosen %}
<span class="expert" style="background:{{ colour(expert) }}" title="{{ hover }}">{{ expert }}</span>{% endfor %}</p>
</body>
</html>
"""


@dataclass(frozen=True, kw_only=True)
class RoutedToken:
    """A token and its routing: index and weight [layers, rows, top_k], probabilities [layers, rows, experts]."""

    text: str
    index: np.ndarray
    weight: np.ndarray
    probabilities: np.ndarray


def routed_tokens(model: MHMoEForCausalLM, tokenizer: Tokenizer, text: str) -> list[RoutedToken]:
    """Every token of the text in its order, read in windows of the model's context.

    Raises UserError if the text has no token or the model no experts.
    """
    if model.config.moe is None:
        raise UserError("the checkpoint is a dense model: it has no experts to show; give one with a MoE layer")
    (encoding,) = encode([text], tokenizer)
    if not encoding.ids:
        raise UserError("the text is empty; give some words to route")
    windows = windows_of_ids([encoding.ids], model.config.max_position_embeddings)
    tokens: dict[int, RoutedToken] = {}
    for batch in route(model, windows):
        index, weight, probabilities = (
            np.stack([getattr(layer, name).cpu().numpy() for layer in batch.routing], axis=2)
            for name in ("index", "weight", "probabilities")
        )
        for row, column in np.argwhere(batch.token >= 0):
            place, at = int(batch.token[row, column]), (row, column)
            piece = _piece(tokenizer, encoding.ids[place])
            tokens[place] = RoutedToken(text=piece, index=index[at], weight=weight[at], probabilities=probabilities[at])
    return [tokens[place] for place in sorted(tokens)]


def _piece(tokenizer: Tokenizer, token: int) -> str:
    """The token's characters; the vocabulary's own spelling where it is only a part of a character."""
    piece = tokenizer.decode([token], skip_special_tokens=False)
    return str(tokenizer.id_to_token(token)) if "\N{REPLACEMENT CHARACTER}" in piece or not piece else piece


def _visible(piece: str) -> str:
    """Blanks by signs; what would command the terminal, or turn the line around, by its number."""
    signs = piece.replace(" ", "·").replace("\n", "↵").replace("\t", "→").replace("\r", "↵")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in signs)


def _width(text: str) -> int:
    """Columns of a terminal: none for a mark on the letter before it, two for a wide sign."""
    return sum(0 if unicodedata.category(c) in ("Mn", "Me") else 1 + (east_asian_width(c) in "WF") for c in text)


def colour(expert: int) -> str:
    """Of an expert, as #RRGGBB: nine colours, again from the first for the tenth expert."""
    return _COLOURS[expert % len(_COLOURS)]


def terminal(tokens: Sequence[RoutedToken], layers: Sequence[int], blocks: Sequence[int], *, coloured: bool) -> str:
    """Lines for a terminal. layers: which MoE layers, from 0; blocks: the block of each, from 1."""
    widest = min(max(_width(_visible(token.text)) for token in tokens), 24)
    digits = len(str(tokens[0].probabilities.shape[-1] - 1))
    rows, top_k = tokens[0].index.shape[1:]
    cell = top_k * (digits + 1) - 1
    width = rows * (cell + 3) - 1
    heads = [f"layer {layer + 1} (block {block})" for layer, block in zip(layers, blocks, strict=True)]
    lines = [" " * widest + "".join(f"  {head:{width}}" for head in heads).rstrip()]
    for token in tokens:
        piece = _visible(token.text)
        parts = [" " * (widest - _width(piece)) + piece]
        for layer, head in zip(layers, heads, strict=True):
            cells = [
                _paint(",".join(f"{expert:{digits}}" for expert in chosen), int(chosen[0]), coloured)
                for chosen in token.index[layer]
            ]
            parts.append("  " + " ".join(cells) + " " * max(0, len(head) - width))
        lines.append("".join(parts).rstrip())
    return "\n".join(lines) + "\n"


def _paint(text: str, expert: int, coloured: bool) -> str:
    red, green, blue = bytes.fromhex(colour(expert)[1:])
    return f"\x1b[30;48;2;{red};{green};{blue}m {text} \x1b[0m" if coloured else f" {text} "


def page(tokens: Sequence[RoutedToken], layers: Sequence[int], blocks: Sequence[int], *, title: str) -> str:
    """The HTML page: every token once, with its experts in each layer; no scripts, nothing from elsewhere."""
    rows, top_k = tokens[0].index.shape[1:]
    experts = tokens[0].probabilities.shape[-1]
    selections = np.zeros(experts, dtype=int)
    for token in tokens:
        np.add.at(selections, token.index[list(layers)], 1)
    named = ", ".join(f"{layer + 1} (block {block})" for layer, block in zip(layers, blocks, strict=True))
    what = f"{rows} sub-tokens each" if rows > 1 else "routed whole"
    note = (
        f"{len(tokens)} tokens, {what}, top {top_k} of {experts} experts. Under a token: one line a MoE layer "
        f"({named}), one cell a selection in the order of the sub-tokens, with the expert's number. Point at a cell "
        "for its gate weight. Nine colours go round, so the number decides."
    )
    return Template(_PAGE, autoescape=True, keep_trailing_newline=True).render(
        title=title,
        note=note,
        colour=colour,
        tokens=[(_piece_html(token.text), [_cells(token, layer) for layer in layers]) for token in tokens],
        chosen=[(expert, f"expert {expert}: {n} selections") for expert, n in enumerate(selections) if n],
    )


def _piece_html(text: str) -> Markup:
    return escape(_visible(text)).replace("·", Markup('<span class="space">·</span>'))


def _cells(token: RoutedToken, layer: int) -> list[tuple[int, str]]:
    """Each selection of a token in a layer: the expert, and what is shown when one points at it."""
    cells: list[tuple[int, str]] = []
    for row, chosen in enumerate(token.index[layer]):
        probability = token.probabilities[layer, row]
        best = np.argsort(-probability, kind="stable")[:_FAVOURITES]
        favourites = ", ".join(f"{e}: {probability[e]:.2f}" for e in best)
        where = f"layer {layer + 1}, sub-token {row + 1}"
        for expert, weight in zip(chosen, token.weight[layer, row], strict=True):
            told = f"{where}: expert {expert}, gate weight {weight:.3f}; probabilities {favourites}"
            cells.append((int(expert), told))
    return cells


def run(
    checkpoint: Positional[Path],
    text: Positional[str],
    html: Annotated[Path | None, tyro.conf.arg(name="html")] = None,
    layer: int | None = None,
) -> None:
    """Show to which experts the sub-tokens of a text go.

    Args:
        checkpoint: folder of a model and its tokenizer, as save_pretrained writes it.
        text: what the model reads.
        html: write a page to this file instead of printing.
        layer: only this MoE layer, counted from 1; all if left out.
    """
    check_unicode(text, "the text")
    if html is not None:
        check_output(html)
    model, tokenizer = load_checkpoint(checkpoint)
    blocks = [block + 1 for block in range(model.config.num_hidden_layers) if model.config.is_moe_block(block)]
    if layer is not None and not 1 <= layer <= len(blocks):
        raise UserError(f"--layer {layer} does not exist; the model has MoE layers 1 to {len(blocks)}")
    tokens = routed_tokens(model, tokenizer, text)
    layers = range(len(blocks)) if layer is None else [layer - 1]
    shown = [blocks[i] for i in layers]
    if html is None:
        coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        sys.stdout.write(terminal(tokens, layers, shown, coloured=coloured))
    else:
        write_atomically(html, page(tokens, layers, shown, title=f"Routing of {checkpoint.name}"))
        print(f"{html}: {len(tokens)} tokens, {len(layers)} MoE layers")


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_code(lambda: tyro.cli(run, prog="python -m analysis.routing.inspect", args=arguments))


if __name__ == "__main__":
    sys.exit(main())
