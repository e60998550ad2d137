"""Perplexity on texts of a data folder, one by one: whether the model has seen their kind or not.

Every text is some files of documents, read as `evaluation.evaluate` reads a split. Perplexity is per token of the
model's own tokenizer, so it compares models of one tokenizer on one text; bits per byte compares texts too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from analysis.results import Result, Source
from analysis.routing.text import encode, end_of_text
from mhmoe.data.batches import EvaluationSet
from mhmoe.data.manifest import DataFolder
from mhmoe.io import UserError
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.evaluation import evaluate


@dataclass(frozen=True, kw_only=True)
class TextLoss:
    """Of one text: nats a token, bits a byte, and how many tokens were predicted in how many documents."""

    nll_per_token: float
    bits_per_byte: float
    tokens: int
    documents: int

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.nll_per_token, 700.0))


@dataclass(frozen=True, kw_only=True)
class TextLosses(Result):
    """By the name of the text."""

    texts: dict[str, TextLoss]


def measure_texts(
    model: MHMoEForCausalLM,
    tokenizer: Tokenizer,
    folder: DataFolder,
    texts: Mapping[str, Sequence[str]],
    *,
    max_windows: int,
) -> TextLosses:
    """texts: by name, the files of the folder. max_windows: of each text, evenly spaced over all of it.

    Raises UserError if a file is missing or damaged, or a text has no documents.
    """
    length, found = model.config.max_position_embeddings, dict[str, TextLoss]()
    for name, files in texts.items():
        split = _read(folder, tokenizer, name, files, end_of_text(model))
        found_here = evaluate(model, split, length, max_windows=max_windows)
        found[name] = TextLoss(
            nll_per_token=found_here["nll_per_token"],
            bits_per_byte=found_here["bits_per_byte"],
            tokens=found_here["tokens"],
            documents=len(found_here["documents"]),
        )
    hashes = {file: folder.hash_of(file) for files in texts.values() for file in files}
    return TextLosses(data=Source(kind=folder.kind, files=hashes), texts=found)


def _read(folder: DataFolder, tokenizer: Tokenizer, name: str, files: Sequence[str], end: int) -> EvaluationSet:
    documents = [folder.parse(line, file, n)["text"] for file in files for n, line in folder.lines(file)]
    pairs = zip(documents, encode(documents, tokenizer), strict=True)
    kept = [(text, encoding.ids) for text, encoding in pairs if encoding.ids]
    if not kept:
        raise UserError(f"the text {name} has no documents in {', '.join(files)}; name other files")
    sizes = [len(text.encode()) for text, _ in kept]
    return EvaluationSet.of([ids for _, ids in kept], num_bytes=sizes, end_of_text=end)
