"""A text's routing as a page of HTML: every token with its experts, and every expert with the tokens that it takes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

from mhmoe.commands.routed import RoutedToken, colour, visible

_FAVOURITES = 3  # of the router, shown on hover
_TAKEN = 12  # tokens that are named for an expert

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What is shown of one model. tokens: (token, its cells by layer); a cell is an expert and what pointing at it
    shows. taken: (layer, its experts), each with a hint and the tokens that it takes. problem: why there is nothing."""

    name: str = ""
    note: str = ""
    tokens: Sequence[tuple[Markup, Sequence[Sequence[tuple[int, str]]]]] = ()
    taken: Sequence[tuple[str, Sequence[tuple[int, str, Markup]]]] = ()
    problem: str = ""


def page(panels: Sequence[Panel], *, title: str, form: Mapping[str, Any] | None = None) -> str:
    """The HTML page; no scripts, nothing from elsewhere. form: what the explorer asks."""
    template = _TEMPLATES.get_template("routing.html.jinja")
    return template.render(title=title, panels=panels, form=form, colour=colour) + "\n"


def panel(tokens: Sequence[RoutedToken], layers: Sequence[int], blocks: Sequence[int], *, name: str = "") -> Panel:
    """layers: which MoE layers, from 0; blocks: the block of each, from 1."""
    rows, top_k = tokens[0].index.shape[1:]
    experts = tokens[0].probabilities.shape[-1]
    named = ", ".join(f"{layer + 1} (block {block})" for layer, block in zip(layers, blocks, strict=True))
    what = f"{rows} sub-tokens each" if rows > 1 else "routed whole"
    different = np.mean([[len(np.unique(token.index[layer])) for layer in layers] for token in tokens])
    note = (
        f"{len(tokens)} tokens, {what}, top {top_k} of {experts} experts. Under a token: one line a MoE layer "
        f"({named}), one cell a selection in the order of the sub-tokens, with the expert's number. Point at a cell "
        f"for its gate weight. Nine colours go round, so the number decides. A token's selections go to "
        f"{different:.2f} different experts in the mean."
    )
    return Panel(
        name=name,
        note=note,
        tokens=[(_shown(token.text), [_cells(token, layer) for layer in layers]) for token in tokens],
        taken=[
            (f"layer {layer + 1} (block {block})", _taken(tokens, layer))
            for layer, block in zip(layers, blocks, strict=True)
        ],
    )


def _shown(text: str) -> Markup:
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


def _taken(tokens: Sequence[RoutedToken], layer: int) -> list[tuple[int, str, Markup]]:
    """The experts that were chosen in a layer: number, how often, and the tokens they take, the most frequent first."""
    found: dict[int, Counter[str]] = {}
    for token in tokens:
        for expert in token.index[layer].flatten():
            found.setdefault(int(expert), Counter())[token.text] += 1
    return [
        (
            expert,
            f"expert {expert}: {pieces.total()} selections of {len(pieces)} different tokens",
            Markup(" ").join(
                _shown(piece) + (Markup(f'<span class="note"> x{n}</span>') if n > 1 else "")
                for piece, n in pieces.most_common(_TAKEN)
            )
            + (" ..." if len(pieces) > _TAKEN else ""),
        )
        for expert, pieces in sorted(found.items())
    ]
