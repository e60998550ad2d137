"""python -m analysis.routing.inspect CHECKPOINT "some text": which expert each sub-token of each token goes to.

One line a token: the token, and for each MoE layer the experts of its sub-tokens from the first to the last,
with several choices of one sub-token joined by a comma. Colours follow the experts' numbers, which are
always printed too. `--html FILE` writes the same as one page that needs nothing from elsewhere; there,
pointing at a cell shows the gate weights and the router's favourites.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from jinja2 import Template
from markupsafe import Markup, escape
from tyro.conf import Positional

from analysis.routing.text import load_checkpoint
from mhmoe.cli import exit_code
from mhmoe.commands.routed import RoutedToken, check_unicode, colour, routed_tokens, terminal, visible
from mhmoe.io import UserError, check_output, write_atomically

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
    return escape(visible(text)).replace("·", Markup('<span class="space">·</span>'))


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
