"""A text with the experts that each token's sub-tokens go to, token by token, and that as lines for a terminal."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from unicodedata import east_asian_width

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from mhmoe.data.tokenizer import END_OF_TEXT_ID
from mhmoe.io import UserError
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.config import parts

# Tol's light qualitative scheme: black text reads on all of them, and colour-blind people tell them apart.
_COLOURS = ("#77AADD", "#EE8866", "#EEDD88", "#FFAABB", "#99DDFF", "#44BB99", "#BBCC33", "#AAAA00", "#DDDDDD")


@dataclass(frozen=True, kw_only=True)
class RoutedToken:
    """A token and its routing: index and weight [layers, rows, top_k], probabilities [layers, rows, experts]."""

    text: str
    index: np.ndarray
    weight: np.ndarray
    probabilities: np.ndarray


@torch.no_grad()
def routed_tokens(model: MHMoEForCausalLM, tokenizer: Tokenizer, text: str) -> list[RoutedToken]:
    """Every token of the text in its order, read in windows of the model's context, the first after an end of text.

    Raises UserError if the text has no token or is no Unicode, or the model has no experts, or such as choose tokens.
    """
    if model.config.moe is None:
        raise UserError("the checkpoint is a dense model: it has no experts to show; give one with a MoE layer")
    if choosing := [part.kind for part in parts(model.config) if part.looks_ahead]:
        raise UserError(f"in {choosing[0]} experts choose tokens; give a model whose tokens choose experts")
    check_unicode(text, "the text")
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if not ids:
        raise UserError("the text is empty; give some words to route")
    end = model.config.eos_token_id
    stream = [end if isinstance(end, int) else END_OF_TEXT_ID, *ids]
    found: list[list[np.ndarray]] = []
    model.eval()
    for window in torch.tensor(stream, device=model.device).split(model.config.max_position_embeddings):
        routing = model(window.unsqueeze(0), logits_to_keep=1, output_routing=True).routing
        if not routing:
            raise UserError("no layer of the checkpoint chooses experts: there is nothing to show; give another one")
        arrays = ([_rows(part) for part in (layer.index, layer.weight, layer.probabilities)] for layer in routing)
        found.append([np.stack(of_layers, axis=1) for of_layers in zip(*arrays, strict=True)])
    index, weight, probabilities = (np.concatenate(of_windows) for of_windows in zip(*found, strict=True))
    return [
        RoutedToken(text=_piece(tokenizer, token), index=index[i], weight=weight[i], probabilities=probabilities[i])
        for i, token in enumerate(ids, 1)
    ]


def _rows(part: Tensor) -> np.ndarray:
    """[1, length, ..., n] as [length, rows, n]; a row is a sub-token, or the token."""
    return part[0].reshape(part.shape[1], -1, part.shape[-1]).cpu().numpy()


def check_unicode(text: str, what: str) -> None:
    """Raises UserError, beginning with `what` it is, if half of a surrogate pair stands alone in it.

    JSON can spell one, and arguments of a command have them in the place of bytes that are no UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = ascii(text[error.start])
        raise UserError(
            f"{what} is no Unicode: character {error.start + 1} is {found}, half of a pair; write it as UTF-8"
        ) from None


def _piece(tokenizer: Tokenizer, token: int) -> str:
    """The token's characters; the vocabulary's own spelling where it is only a part of a character."""
    piece = tokenizer.decode([token], skip_special_tokens=False)
    return str(tokenizer.id_to_token(token)) if "\N{REPLACEMENT CHARACTER}" in piece or not piece else piece


def visible(piece: str) -> str:
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
