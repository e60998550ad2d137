"""lm-eval's Hugging Face model, faster where sequences are short and models small.

lm-eval scores a request (context, continuation) as the sum of log p(token | tokens before it) over the
continuation; what does not fit into `max_length` is cut from the left. The same is computed here, but
  - a batch holds rows of one length only, as many as a budget of tokens allows: nothing is padded;
  - rows that are equal, such as those of one-word answers to one question, are computed once;
  - logits and log-softmax are computed at scored positions, not for the whole row.

One departure: a continuation longer than `max_length` stops lm-eval with an assertion. Here it is scored in
consecutive windows of `max_length` tokens, each with as much before it as fits, which is what lm-eval's
`loglikelihood_rolling` does with a text. How many requests were cut and how many windowed is counted.
"""

import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from lm_eval.models import huggingface
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

HFLM: Any = huggingface.HFLM  # a decorator hides its type
_LOGITS = 2**26  # numbers held at once, whatever the vocabulary: 256 MiB in float32

Encoded = tuple[Any, list[int], list[int]]  # (what lm-eval calls the request, context, continuation)


class Piece(NamedTuple):
    """The end of a row that is scored, and the request that it belongs to."""

    request: int
    tokens: tuple[int, ...]


class Batch(NamedTuple):
    """Rows of one length, with what is scored at the end of each; `keep` is the longest such end."""

    rows: list[tuple[int, ...]]
    pieces: list[list[Piece]]
    keep: int


class LengthBatchedLM(HFLM):
    """`HFLM` of a loaded causal model, for `lm_eval.evaluate`; the model's own precision and device.

    batch_tokens: tokens of a batch. max_length: in tokens; None takes the model's own. Raises ValueError if
    one of them is below 1. After `loglikelihood`, `cut` and `windowed` count its requests by task, `tokens`
    what went through the model.
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
        self.cut, self.windowed, self.tokens = Counter[str](), Counter[str](), 0
        self._lengths = list[tuple[int, int]]()  # of the requests at hand: whole, continuation

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Per request (its log-likelihood in nats, whether greedy decoding would give it)."""
        answers = super().loglikelihood(requests, disable_tqdm=disable_tqdm or not self.progress)
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
        total = sum(map(len, rows))
        with tqdm(total=total, desc="scoring", unit="tokens", unit_scale=True, disable=disable_tqdm or None) as bar:
            for batch in self._batches(rows):
                for request, score, best in self._score(batch):
                    scores[request] += score
                    greedy[request] &= best
                bar.update(sum(map(len, batch.rows)))
        self.tokens += total
        answers = list(zip(scores, greedy, strict=True))
        for (text, _, _), answer in zip(requests, answers, strict=True):
            if text is not None:
                self.cache_hook.add_partial("loglikelihood", text, answer)
        return answers

    def _batches(self, rows: dict[tuple[int, ...], list[Piece]]) -> Iterator[Batch]:
        """The longest first: memory runs out at once or never, and the time left is not underestimated."""
        ends = {row: max(len(piece.tokens) for piece in pieces) for row, pieces in rows.items()}
        ordered = sorted(rows, key=lambda row: (-len(row), -ends[row], row))
        start = 0
        while start < len(ordered):
            length, keep = len(ordered[start]), ends[ordered[start]]
            logits = self.vocab_size * (keep if self.can_keep else length)
            size = max(1, min(self.batch_tokens // length, _LOGITS // logits))
            chosen = [row for row in ordered[start : start + size] if len(row) == length]
            yield Batch(chosen, [rows[row] for row in chosen], keep)
            start += len(chosen)

    @torch.no_grad()
    def _score(self, batch: Batch) -> Iterator[tuple[int, float, bool]]:
        """For each piece its request, log-likelihood and whether every token of it is the likeliest."""
        logits = self._logits(torch.tensor(batch.rows, device=self.device), batch.keep)
        ends = [max(len(piece.tokens) for piece in pieces) for pieces in batch.pieces]
        back = torch.arange(batch.keep, 0, -1, device=logits.device)  # of each kept position, counted from the end
        scored = logits[back <= torch.tensor(ends, device=logits.device).unsqueeze(1)]  # [positions, vocabulary]
        log_probs = F.log_softmax(scored, dim=-1, dtype=self.softmax_dtype)
        likeliest = log_probs.argmax(dim=-1)

        positions, targets, requests, lengths = list[int](), list[int](), list[int](), list[int]()
        after = 0  # the position behind the row
        for end, pieces in zip(ends, batch.pieces, strict=True):
            after += end
            for request, tokens in pieces:
                positions += range(after - len(tokens), after)
                targets += tokens
                requests.append(request)
                lengths.append(len(tokens))
        at, target = (torch.tensor(x, device=log_probs.device) for x in (positions, targets))
        values = log_probs[at, target].split(lengths)
        best = (likeliest[at] == target).split(lengths)
        for request, value, is_best in zip(requests, values, best, strict=True):
            yield request, float(value.sum()), bool(is_best.all())

    def _logits(self, rows: Tensor, keep: int) -> Float[Tensor, "rows keep vocabulary"]:
        if self.can_keep:
            return self.model(rows, logits_to_keep=keep, **self.options).logits
        return self.model(rows, **self.options).logits[:, -keep:]


def _rows(requests: Sequence[Encoded], max_length: int) -> dict[tuple[int, ...], list[Piece]]:
    """The different rows of input, at most `max_length` tokens each, and what is scored at their ends."""
    rows: dict[tuple[int, ...], list[Piece]] = {}
    for number, (_, context, continuation) in enumerate(requests):
        whole = (*context, *continuation)
        for start in range(len(context), len(whole), max_length):
            stop = min(start + max_length, len(whole))
            # the last token is predicted, not read
            row = whole[max(0, stop - max_length - 1) : stop - 1]
            rows.setdefault(row, []).append(Piece(number, whole[start:stop]))
    return rows
