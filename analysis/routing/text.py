"""Text as a model reads it, and to which experts each token of it went.

A document is cut into windows of the model's context length as in `batches.EvaluationSet.windows`: the first
begins with <|endoftext|>, which is read but stands for no token of the text and is never counted, nor is
padding: a causal model does not see what stands behind a text, a masked one is told by the mask.
"""

import copy
import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Int
from tokenizers import Encoding, Tokenizer
from torch import Tensor

from mhmoe.commands.routed import check_unicode as check_unicode  # where earlier code looks for it
from mhmoe.data.batches import IGNORE, EvaluationSet
from mhmoe.data.tokenizer import END_OF_TEXT_ID, bare
from mhmoe.io import UserError
from mhmoe.layers.routing import Routing
from mhmoe.model.checkpoints import first_line, load
from mhmoe.model.config import MHMoEConfig
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.config import parts
from mhmoe.training.loop import seed_parameters

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """What a model is fed.

    inputs [windows, length]: token ids. read [windows, length]: False at padding.
    document [windows]: which document, below num_documents.
    token [windows, length]: which token of its document, -1 at padding and at <|endoftext|>.
    """

    inputs: Integers
    read: npt.NDArray[np.bool_]
    document: Integers
    token: Integers
    num_documents: int

    @property
    def counted(self) -> npt.NDArray[np.bool_]:
        """[windows, length]: where a token of the text stands."""
        return self.token >= 0

    @property
    def full(self) -> "Windows":
        """Those without padding."""
        return self._those(np.flatnonzero(self.read.all(axis=1)))

    def spaced(self, max_windows: int) -> "Windows":
        """At most so many windows, evenly spaced over the whole text, as `evaluation.evaluate` takes them."""
        if max_windows < 1:
            raise ValueError(f"max_windows={max_windows} is not allowed; it must be at least 1")
        if max_windows >= len(self.inputs):
            return self
        return self._those(np.linspace(0, len(self.inputs) - 1, max_windows).round().astype(int))

    def _those(self, chosen: npt.NDArray[Any]) -> "Windows":
        parts = {name: getattr(self, name)[chosen] for name in ("inputs", "read", "document", "token")}
        return dataclasses.replace(self, **parts)


def windows_of(text: EvaluationSet, length: int) -> Windows:
    """The windows in which a split is evaluated. A document's last token is predicted but never read."""
    inputs, targets, document = text.windows(length)
    read = targets != IGNORE
    first = np.searchsorted(document, document)  # the document's first window
    place = (np.arange(len(document)) - first)[:, None] * length + np.arange(length)
    return Windows(
        inputs=inputs,
        read=read,
        document=document,
        token=np.where(read, place - 1, -1),
        num_documents=len(text),
    )


def end_of_text(model: MHMoEForCausalLM) -> int:
    """The token that the model begins a text after; with a tokenizer that was not trained here, not the usual one."""
    end = model.config.eos_token_id
    return end if isinstance(end, int) else END_OF_TEXT_ID


def encode(texts: Sequence[str], tokenizer: Tokenizer) -> list[Encoding]:
    """Tokens with their character offsets; no special tokens.

    Raises UserError for text that is none in Unicode, or that the tokenizer has no tokens for and says so.
    """
    for text in texts:
        check_unicode(text, "the text")
    try:
        return tokenizer.encode_batch(list(texts), add_special_tokens=False)
    except Exception as error:  # the library has no kind of its own
        raise UserError(f"the tokenizer does not read the text ({first_line(error)}); give text of its words") from None


def split_of_ids(documents: Sequence[Sequence[int]], end: int = END_OF_TEXT_ID) -> EvaluationSet:
    """Texts at hand as a split, one document each; their bytes are not known. end: the token before each.

    Raises ValueError without documents.
    """
    if not documents:
        raise ValueError("there is no text to read; give at least one document")
    return EvaluationSet.of(documents, end_of_text=end)


def windows_of_ids(documents: Sequence[Sequence[int]], length: int, end: int = END_OF_TEXT_ID) -> Windows:
    """The same windows for texts at hand; here the last token is read too. Raises ValueError without documents."""
    return windows_of(split_of_ids([[*ids, end] for ids in documents], end), length)


def windows_of_texts(texts: Sequence[str], tokenizer: Tokenizer, length: int, end: int = END_OF_TEXT_ID) -> Windows:
    """Harness prompts, premises and hypotheses, or any other strings, each a document of its own, behind `end`."""
    return windows_of_ids([encoding.ids for encoding in encode(texts, tokenizer)], length, end)


class RoutedBatch(NamedTuple):
    """Some windows, cut to the longest of them, and their routing in every MoE layer.

    document [batch] and token [batch, length] as in `Windows`; the routing has axes (batch, length, rows, ...).
    rows are a token's sub-tokens; 1 where a layer routes whole tokens.
    """

    document: Integers
    token: Integers
    counted: Bool[Tensor, "batch length"]
    routing: tuple[Routing, ...]


def route(model: MHMoEForCausalLM, windows: Windows, *, batch_size: int = 32) -> Iterator[RoutedBatch]:
    """Let the model read the windows, the longest first, in evaluation mode and without gradients.

    Raises ValueError if it has no MoE layer or one whose experts choose, or if the windows are longer than its context.
    """
    length, context = windows.inputs.shape[1], model.config.max_position_embeddings
    if length > context:
        raise ValueError(f"windows of {length} tokens exceed the model's context of {context}; make shorter windows")
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        if not routing_blocks(model):
            raise ValueError("no layer of the model chooses experts, as in a dense one; give one with a MoE layer")
        if choosing := [part.kind for part in parts(model.config) if part.looks_ahead]:
            raise ValueError(f"in {choosing[0]} experts choose tokens; give a model whose tokens choose experts")
        # Like lengths need little padding; the longest first, as memory that it frees holds all that follow.
        order = (-windows.read.sum(axis=1)).argsort(kind="stable")
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            longest = int(windows.read[part].sum(axis=1).max())
            inputs, read, counted = (
                torch.from_numpy(array[part, :longest]).to(device)
                for array in (windows.inputs, windows.read, windows.counted)
            )
            with torch.no_grad():
                routing = model(inputs, attention_mask=read.long(), logits_to_keep=1, output_routing=True).routing
            token = windows.token[part, :longest]
            yield RoutedBatch(windows.document[part], token, counted, tuple(_with_rows(layer) for layer in routing))
    finally:
        model.train(was_training)


@torch.no_grad()
def routing_blocks(model: MHMoEForCausalLM) -> list[int]:
    """The blocks, from 1, of which `forward` returns a routing: a layer may also be one network, none, or a mixture of
    all experts, and other blocks may have one that chooses."""
    row = torch.zeros(1, 1, model.config.hidden_size, device=model.device, dtype=model.dtype)
    blocks: Any = model.model.layers
    return [number for number, block in enumerate(blocks, 1) if block.feed_forward(row).balance_loss is not None]


def routes(model: MHMoEForCausalLM) -> bool:
    """Whether any of its layers chooses."""
    return bool(routing_blocks(model))


def _with_rows(routing: Routing) -> Routing:
    """Exactly one axis between tokens and choices."""
    batch, length = routing.index.shape[:2]
    shaped = {
        name: part.reshape(batch, length, -1, part.shape[-1])
        for name, part in routing._asdict().items()
        if part is not None
    }
    return Routing(**shaped)


def distinct_experts(routing: Routing) -> Int[Tensor, "batch length"]:
    """How many different experts the selections of a token reach, all its rows and choices together."""
    num_experts = routing.probabilities.shape[-1]
    index = torch.where(routing.kept, routing.index, num_experts).flatten(2)  # what does not count goes to none
    reached = index.new_zeros((*index.shape[:2], num_experts + 1)).scatter_(-1, index, 1)
    return reached[..., :num_experts].sum(dim=-1)


def untrained(model: MHMoEForCausalLM, seed: int) -> MHMoEForCausalLM:
    """A null: the same config with the parameters that a run of this seed starts from."""
    fresh = type(model)(copy.deepcopy(model.config))
    seed_parameters(fresh, seed)
    return fresh.to(next(model.parameters()).device).eval()  # pyright: ignore[reportArgumentType]  # a torch.device


def load_checkpoint(folder: Path) -> tuple[MHMoEForCausalLM, Tokenizer]:
    """Model (in evaluation mode) and tokenizer of a folder written by save_pretrained; of the latter what turns text
    into tokens alone, as it may have been set to cut and to pad.

    Raises UserError if the folder, or a file in it, is missing, damaged or another kind of model's.
    """
    advice = "give a folder that save_pretrained wrote, of model and tokenizer"
    for name in ("config.json", "tokenizer.json"):
        if not os.path.isfile(folder / name):
            raise UserError(f"{folder} is not a checkpoint: it has no {name}; {advice}")
    try:
        config = json.loads((folder / "config.json").read_bytes())
        kind = config["model_type"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{folder / 'config.json'} is damaged: it names no model_type; {advice}") from None
    if kind != MHMoEConfig.model_type:
        raise UserError(f"{folder} holds a model of type {kind!r}, not {MHMoEConfig.model_type!r}; {advice}")
    model, tokenizer = load(str(folder), masked=config.get("is_causal") is False)
    assert isinstance(model, MHMoEForCausalLM)
    inner = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(inner, Tokenizer):
        raise UserError(f"{folder} has a tokenizer without character offsets; {advice}")
    return model.eval(), bare(inner)
