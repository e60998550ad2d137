"""lm-eval's Hugging Face model, faster where requests begin alike, rows are short and models small.

lm-eval scores a request (context, continuation) as the sum of log p(token | tokens before it) over the
continuation; what does not fit into `max_length` is cut from the left. The same is computed here, but
  - a model of this package reads what several requests begin with once (prefix_trees.py);
  - all other rows are batched by length, as many as a budget of tokens allows: nothing is padded;
  - rows that are equal, such as those of one-word answers to one question, are computed once;
  - logits are computed from the first scored position on, log-softmax at scored positions alone.

One departure: a continuation longer than `max_length` stops lm-eval with an assertion. Here it is scored in
consecutive windows of `max_length` tokens, each with as much before it as fits, which is what lm-eval's
`loglikelihood_rolling` does with a text. How many requests were cut and how many windowed is counted.
"""

import inspect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from lm_eval.models import huggingface
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from analysis.zero_shot.prefix_trees import Row, Tree, grow, layout
from mhmoe.model.base_model import MHMoEPreTrainedModel

HFLM: Any = huggingface.HFLM  # a decorator hides its type
_LOGITS = 2**26  # numbers of a batch of several rows, whatever the vocabulary: 256 MiB in float32
_TREE = 4  # contexts of tokens that a tree may have; of 2, 4 and 8 the differences were small (CPU, 128 tokens)

Encoded = tuple[Any, list[int], list[int]]  # (what lm-eval calls the request, context, continuation)


class Piece(NamedTuple):
    """The end of a row that is scored, and the request that it belongs to."""

    request: int
    tokens: tuple[int, ...]


class Batch(NamedTuple):
    """Trees that go through the model together; what is scored lies in the last `keep` places of each."""

    trees: list[Tree]
    keep: int


class LengthBatchedLM(HFLM):
    """`HFLM` of a loaded causal model, for `lm_eval.evaluate`; the model's own precision and device.

    batch_tokens: tokens of a batch. max_length: in tokens; None takes the model's own. Raises ValueError if
    one of them is below 1. After `loglikelihood`, `cut` and `windowed` count its requests by task, `tokens`
    what went through the model, without padding.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_tokens: int = 8192,
        max_length: int | None = None,
        progress: bool = True,
    ) -> None:
        for name, value in (("batch_tokens", batch_tokens), ("max_length", max_length)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is not allowed; it must be at least 1")
        super().__init__(pretrained=model, tokenizer=tokenizer, backend="causal", max_length=max_length)
        self.batch_tokens, self.progress = batch_tokens, progress
        parameters = inspect.signature(model.forward).parameters
        self.can_keep = "logits_to_keep" in parameters
        self.options = {"use_cache": False} if "use_cache" in parameters else {}
        # Other models may make something else of such a mask, or nothing.
        self.can_branch = isinstance(model, MHMoEPreTrainedModel) and (
            model.config._attn_implementation == "sdpa"  # pyright: ignore[reportPrivateUsage]  # it has no other name
        )
        self.cut, self.windowed, self.tokens = Counter[str](), Counter[str](), 0
        self._lengths = list[tuple[int, int]]()  # of the requests at hand: whole, continuation

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Per request (its log-likelihood in nats, whether greedy decoding would give it).

        ValueError if an answer has no tokens of its own, or nothing to follow, or the model gives nan.
        """
        self.tok_encode = lru_cache(maxsize=1024)(self.tok_encode)  # a question comes once with every answer
        try:
            answers = super().loglikelihood(requests, disable_tqdm=disable_tqdm or not self.progress)
        finally:
            del self.tok_encode  # the method is behind it
        for request, (length, continuation) in zip(requests, self._lengths, strict=True):
            self.cut[request.task_name] += length > self.max_length + 1
            self.windowed[request.task_name] += continuation > self.max_length
        return answers

    def _loglikelihood_tokens(
        self, requests: list[Encoded], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """As lm-eval's, whose `loglikelihood` and `loglikelihood_rolling` call it; `override_bs` is not needed."""
        self._lengths = [(len(context) + len(continuation), len(continuation)) for _, context, continuation in requests]
        rows = _rows(requests, self.max_length)
        scores, greedy = [0.0] * len(requests), [True] * len(requests)
        most = min(_TREE * self.max_length, self.batch_tokens, _LOGITS // self.vocab_size) if self.can_branch else 0
        trees = list(grow(rows, most))
        total = sum(tree.size for tree in trees)
        with tqdm(total=total, desc="scoring", unit="tokens", unit_scale=True, disable=disable_tqdm or None) as bar:
            for batch in self._batches(trees, rows):
                for request, score, best in self._score(batch, rows):
                    scores[request] += score
                    greedy[request] &= best
                bar.update(sum(tree.size for tree in batch.trees))
        if np.isnan(scores).any():  # lm-eval would take the first of such answers for the likeliest
            raise ValueError("the model gives no numbers for likelihoods (nan); was it trained, and in this precision?")
        self.tokens += total
        answers = list(zip(scores, greedy, strict=True))
        for (text, _, _), answer in zip(requests, answers, strict=True):
            if text is not None:
                self.cache_hook.add_partial("loglikelihood", text, answer)
        return answers

    def _batches(self, trees: Sequence[Tree], rows: Mapping[Row, list[Piece]]) -> Iterator[Batch]:
        """Trees of about one size, then single rows of exactly one, of both the largest first: the time left is not
        underestimated, and where memory runs out it does so soon."""
        keeps = [tree.size - _first_scored(tree, rows) for tree in trees]
        alone = [len(tree.branches) == 1 for tree in trees]
        ordered = sorted(range(len(trees)), key=lambda i: (alone[i], -trees[i].size, -keeps[i]))
        start = 0
        while start < len(ordered):
            first = ordered[start]
            length = trees[first].size
            least = length if alone[first] else length - length // 8
            chosen = ordered[start : start + max(1, self.batch_tokens // length)]
            chosen = [i for i in chosen if alone[i] == alone[first] and trees[i].size >= least]
            keep = max(keeps[i] for i in chosen)
            logits = self.vocab_size * (keep if self.can_keep else length)
            chosen = chosen[: max(1, _LOGITS // logits)]
            yield Batch([trees[i] for i in chosen], keep)
            start += len(chosen)

    @torch.no_grad()
    def _score(self, batch: Batch, rows: Mapping[Row, list[Piece]]) -> Iterator[tuple[int, float, bool]]:
        """For each piece its request, log-likelihood and whether every token of it is the likeliest."""
        places, targets, requests, lengths = list[np.ndarray](), list[int](), list[int](), list[int]()
        for number, tree in enumerate(batch.trees):
            start = (number + 1) * batch.keep - tree.size  # of the tree among all places kept
            for row, path, _ in tree.branches:
                for request, tokens in rows[row]:
                    places.append(start + path[-len(tokens) :])
                    targets += tokens
                    requests.append(request)
                    lengths.append(len(tokens))
        scored, at = np.unique(np.concatenate(places), return_inverse=True)
        logits = self._logits(batch).flatten(0, 1)[torch.from_numpy(scored).to(self.device)]
        log_probs = F.log_softmax(logits, dim=-1, dtype=self.softmax_dtype)
        index, target = torch.from_numpy(at).to(self.device), torch.tensor(targets, device=self.device)
        values = log_probs[index, target].split(lengths)
        best = (log_probs.argmax(dim=-1)[index] == target).split(lengths)
        for request, value, is_best in zip(requests, values, best, strict=True):
            yield request, float(value.sum()), bool(is_best.all())

    def _logits(self, batch: Batch) -> Float[Tensor, "trees keep vocabulary"]:
        options: dict[str, Any] = dict(self.options)
        if len(batch.trees[0].branches) == 1:
            tokens = torch.tensor([tree.branches[0].row for tree in batch.trees], device=self.device)
        else:
            tokens, positions, mask = (torch.from_numpy(array).to(self.device) for array in layout(batch.trees))
            options |= {"position_ids": positions, "attention_mask": mask.unsqueeze(1)}
        if self.can_keep:
            options["logits_to_keep"] = batch.keep
        return self.model(tokens, **options).logits[:, -batch.keep :]


def _first_scored(tree: Tree, rows: Mapping[Row, list[Piece]]) -> int:
    return min(int(path[-len(piece.tokens)]) for row, path, _ in tree.branches for piece in rows[row])


def _rows(requests: Sequence[Encoded], max_length: int) -> dict[Row, list[Piece]]:
    """The different rows of input, at most `max_length` tokens each, and what is scored at their ends."""
    rows: dict[Row, list[Piece]] = {}
    for number, (text, context, continuation) in enumerate(requests):
        if not context or not continuation:
            raise ValueError(f"{text!r} cannot be scored: {len(continuation)} tokens behind {len(context)}")
        whole = (*context, *continuation)
        for start in range(len(context), len(whole), max_length):
            stop = min(start + max_length, len(whole))
            # the last token is predicted, not read
            row = whole[max(0, stop - max_length - 1) : stop - 1]
            rows.setdefault(row, []).append(Piece(number, whole[start:stop]))
    return rows
