"""Perplexity of a language model on whole documents.

    nll(document) = - sum_i log p(token_i | the tokens before it in its window)       nats

Every token of a document is predicted exactly once, in windows that never cross documents (see
`batches.EvaluationSet`); of a masked model from what is not masked on both sides, in sequences of several documents,
each read as often as its masks take (see `masking.masked_windows`). Perplexity is exp(nll / tokens) and depends on the
tokenizer; bits per byte, nll / ln 2 / bytes of the text, does not.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mhmoe.data.batches import IGNORE, EvaluationSet
from mhmoe.data.masking import Masking, masked_windows, read_and_predicted
from mhmoe.data.multilingual import language_of
from mhmoe.training.record_checks import Document, Evaluation, Summary, summarise_documents


class Group(Summary):
    """Of some of the documents, and how many."""

    documents: int


LOGITS = 2**28  # 1 GiB of float32


def token_nll(
    logits: Float[Tensor, "batch length vocabulary"], targets: Int[Tensor, "batch length"]
) -> Float[Tensor, "batch length"]:
    """Negative log-likelihood of each target in nats, in float32; 0 where the target is -100."""
    flat = nn.functional.cross_entropy(
        logits.flatten(0, -2).float(), targets.flatten(), reduction="none", ignore_index=IGNORE
    )
    return flat.view(targets.shape)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    text: EvaluationSet,
    length: int,
    *,
    batch_size: int = 64,
    max_windows: int | None = None,
    masking: Masking | None = None,
) -> Evaluation:
    """Perplexity, bits per byte, and per document the summed nll, tokens and bytes.

    With `max_windows`, evenly spaced windows of the whole text are scored instead of all; bits per byte
    then takes a document's bytes in proportion to its tokens. Computes in the model's own precision. batch_size:
    windows at a time, at most, and so many that their logits are no more than LOGITS numbers. masking: tokens are
    predicted from those around them, each once in so many readings (`masked_windows`).
    """
    settings: Any = getattr(model, "config", None)
    if getattr(settings, "is_causal", None) is (masking is not None):
        raise ValueError("a model of masked tokens is evaluated with `masking`, and one of the next token without")
    if masking is None:
        inputs, targets, owner = text.windows(length)
        if max_windows is not None and max_windows < len(inputs):
            chosen = np.linspace(0, len(inputs) - 1, max_windows).round().astype(int)
            inputs, targets, owner = inputs[chosen], targets[chosen], owner[chosen]
    else:
        masked, owner = masked_windows(text, length, masking, max_windows)
        inputs, targets = read_and_predicted(masked, masking.mask)
    device = next(model.parameters()).device
    vocabulary: int = 1 if settings is None else settings.get_text_config().vocab_size
    batch_size = max(1, min(batch_size, LOGITS // (length * vocabulary)))
    was_training = model.training
    model.eval()
    nll, tokens = np.zeros(len(text)), np.zeros(len(text), dtype=np.int64)
    for start in range(0, len(inputs), batch_size):
        part = slice(start, start + batch_size)
        target = torch.from_numpy(targets[part]).to(device)
        logits = model(torch.from_numpy(inputs[part]).to(device)).logits
        losses = token_nll(logits, target)
        if masking is None:
            np.add.at(nll, owner[part], losses.sum(dim=1, dtype=torch.float64).cpu().numpy())
            np.add.at(tokens, owner[part], (targets[part] != IGNORE).sum(axis=1))
        else:  # in whose windows are several documents
            np.add.at(nll, owner[part], losses.double().cpu().numpy())
            np.add.at(tokens, owner[part], targets[part] != IGNORE)
    model.train(was_training)

    share = tokens / np.maximum(np.diff(text.offsets), 1)
    documents: list[Document] = [
        {
            "id": text.ids[i],
            "nll": float(nll[i]),
            "tokens": int(tokens[i]),
            "bytes": round(float(share[i] * text.num_bytes[i])),
        }
        for i in np.flatnonzero(tokens)
    ]
    return {**summarise_documents(documents), "documents": documents}


def by_group(documents: Sequence[Document], group: Callable[[str], str] = language_of) -> dict[str, Group]:
    """Perplexity, bits per byte, tokens and bytes of each group, and how many `documents` it has; in groups' order.

    documents: the rows of `evaluate`, also as a record keeps them. group: from a document's id to its group;
    by default its language, which the ids of a multilingual corpus begin with. Perplexity compares models on
    one language and not languages with each other, whose tokens are of different lengths; bits per byte
    depends on how many bytes the script takes for a letter. Raises ValueError if an id names no group.
    """
    groups: dict[str, list[Document]] = {}
    for document in documents:
        groups.setdefault(group(document["id"]), []).append(document)
    return {name: {**summarise_documents(rows), "documents": len(rows)} for name, rows in sorted(groups.items())}
