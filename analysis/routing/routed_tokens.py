"""A text's tokens with the experts that a model chose for their sub-tokens, and how they look on a terminal."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from unicodedata import east_asian_width

import numpy as np
from tokenizers import Tokenizer

from analysis.routing.text import encode, route, windows_of_ids
from mhmoe.io import UserError
from mhmoe.model.language_model import MHMoEForCausalLM

# Tol's light qualitative scheme: black text reads on all of them, and colour-blind people tell them apart.
_COLOURS = ("#77AADD", "#EE8866", "#EEDD88", "#FFAABB", "#99DDFF", "#44BB99", "#BBCC33", "#AAAA00", "#DDDDDD")


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


def visible(piece: str) -> str:
    """A token for people: blanks by signs; what would command the terminal, or turn the line around, by its number."""
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
    widest = min(max(_width(visible(token.text)) for token in tokens), 24)
    digits = len(str(tokens[0].probabilities.shape[-1] - 1))
    rows, top_k = tokens[0].index.shape[1:]
    cell = top_k * (digits + 1) - 1
    width = rows * (cell + 3) - 1
    heads = [f"layer {layer + 1} (block {block})" for layer, block in zip(layers, blocks, strict=True)]
    lines = [" " * widest + "".join(f"  {head:{width}}" for head in heads).rstrip()]
    for token in tokens:
        piece = visible(token.text)
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
