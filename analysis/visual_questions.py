"""Questions about images, answered by a model of masked tokens: which answer it finds likeliest where one is masked.

    score(answer) = sum over the answer's tokens of log p(token | image, question, all of the answer masked)      nats

The answers to choose among are those of all the questions. Asked once with the image and once with all of it masked:
what a model answers then it knows from the questions alone.

`fine_tune` trains a model further on questions first, as v1 does with those of VQAv2. Departure: v1 follows BEiT-3,
which puts a classifier of 3,129 answers on top; here the layer that pre-training ends with fills in the answer.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from analysis.claims.measured import Items, Quantity
from analysis.results import Result
from mhmoe.data.batches import IGNORE
from mhmoe.data.images import MASK, VisualTokenizer
from mhmoe.data.local_images import Question
from mhmoe.io import RunError
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.config import TrainingConfig
from mhmoe.training.optimizer import make_optimizer
from mhmoe.training.seeding import drawing

YES_NO = ("no", "yes")


@dataclass(frozen=True, kw_only=True)
class Answers(Result):
    """To `questions` questions, of which `key` is the hash. answers: among which. yes_no, right, right_hidden: a digit
    a question, 1 if it is answered by yes or no, if the answer is right, and if it is with the image masked. nll,
    nll_hidden: of the right answer among all, means in nats."""

    questions: int
    key: str
    answers: list[str]
    yes_no: str
    right: str
    right_hidden: str
    nll: float
    nll_hidden: float

    def accuracy(self, kind: str | None = None, *, hidden: bool = False) -> float:
        """Share of right answers, of those by yes or no ("1"), of the others ("0"), or of all; nan of none."""
        found = zip(self.right_hidden if hidden else self.right, self.yes_no, strict=True)
        asked = [right == "1" for right, yes_no in found if kind in (None, yes_no)]
        return fmean(asked) if asked else math.nan


ACCURACY = Quantity[Answers](
    name="accuracy",
    unit="accuracy",
    of=lambda found: found.accuracy(),
    items=lambda found: [Items(found.key, np.array([*found.right], dtype=np.float64), "questions")],
)
BLIND_ACCURACY = Quantity[Answers](
    name="accuracy with the image masked",
    unit="accuracy",
    of=lambda found: found.accuracy(hidden=True),
    items=lambda found: [Items(found.key, np.array([*found.right_hidden], dtype=np.float64), "questions")],
)
LIKELIHOOD = Quantity[Answers](name="log-likelihood", unit="nats", of=lambda found: -found.nll)


def fine_tune(
    model: MHMoEForCausalLM,
    tokenizer: Tokenizer,
    visual: VisualTokenizer,
    asked: Sequence[Question],
    config: TrainingConfig,
    *,
    seed: int,
    end_of_text: int = 0,
) -> None:
    """Train the model to fill in the answers of these questions, of each epoch in an order of its own.

    config: its schedule, optimiser and precision, `batch_sequences` questions a step, whole. The loss is the mean over
    the answers' tokens, with the model's balance loss; what balances routers outside the gradients stays as it is. The
    same seed gives the same weights. Raises ValueError if there are no questions, and RunError where the loss is not
    finite.
    """
    if not asked:
        raise ValueError("there are no questions to train on; give at least one")
    mask, device = _mask(tokenizer), next(model.parameters()).device
    optimizer = make_optimizer(model, config)
    optimizer.zero_grad()
    model.train()
    for step, batch in enumerate(_batches(len(asked), config, seed)):
        part = [asked[number] for number in batch]
        answers = [_ids(tokenizer, f" {question.answer}") for question in part]
        begins = [_begin(tokenizer, visual.encode(question.image), question, end_of_text) for question in part]
        sized = [(begin, len(answer)) for begin, answer in zip(begins, answers, strict=True)]
        rows, read, hidden = (found.to(device) for found in _rows(sized, mask, end_of_text))
        labels = torch.full_like(rows, IGNORE)
        labels[hidden] = torch.tensor(list(chain.from_iterable(answers)), device=device)
        for group in optimizer.param_groups:
            group["lr"] = config.rate(step) * group["lr_multiplier"]
        precision = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16")
        with drawing(model, seed, step, rank=0), precision:
            loss = model(rows, attention_mask=read, labels=labels).loss
        if not torch.isfinite(loss):
            raise RunError(
                f"fine-tuning: the loss is not finite at step {step}; lower learning_rate={config.learning_rate}"
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def _batches(questions: int, config: TrainingConfig, seed: int) -> Iterator[Sequence[int]]:
    """The numbers of the questions of each step."""
    wanted = config.steps * config.batch_sequences
    epochs = (np.random.RandomState([seed, epoch]).permutation(questions) for epoch in range(-(-wanted // questions)))
    order = np.concatenate([*epochs])[:wanted].reshape(config.steps, config.batch_sequences)
    yield from order.tolist()


@torch.no_grad()
def measure_answers(
    model: MHMoEForCausalLM,
    tokenizer: Tokenizer,
    visual: VisualTokenizer,
    asked: Sequence[Question],
    *,
    end_of_text: int = 0,
    batch_size: int = 64,
) -> Answers:
    """All of these questions. Raises ValueError if there are none."""
    if not asked:
        raise ValueError("there are no questions to answer; give at least one")
    answers = sorted({question.answer for question in asked})
    images = [visual.encode(question.image) for question in asked]
    seen, hidden = (
        _scores(model, tokenizer, pictures, asked, answers, end_of_text, batch_size)
        for pictures in (images, [MASK * len(image) for image in images])
    )
    truth = np.array([answers.index(question.answer) for question in asked])
    return Answers(
        questions=len(asked),
        key=hashlib.sha256("\n".join(f"{q.question} {q.answer}" for q in asked).encode()).hexdigest()[:16],
        answers=answers,
        yes_no=_digits(np.array([question.answer in YES_NO for question in asked])),
        right=_digits(seen.argmax(axis=1) == truth),
        right_hidden=_digits(hidden.argmax(axis=1) == truth),
        nll=_nll(seen, truth),
        nll_hidden=_nll(hidden, truth),
    )


def _scores(
    model: MHMoEForCausalLM,
    tokenizer: Tokenizer,
    images: Sequence[str],
    asked: Sequence[Question],
    answers: Sequence[str],
    end_of_text: int,
    batch_size: int,
) -> npt.NDArray[np.float64]:
    """[questions, answers]"""
    device = next(model.parameters()).device
    answer_ids = [_ids(tokenizer, f" {answer}") for answer in answers]
    begins = [_begin(tokenizer, *pair, end_of_text) for pair in zip(images, asked, strict=True)]
    scores = np.empty((len(asked), len(answers)))
    for size in {len(ids) for ids in answer_ids}:
        of_size = [number for number, ids in enumerate(answer_ids) if len(ids) == size]
        wanted = torch.tensor([answer_ids[number] for number in of_size], device=device)
        for start in range(0, len(asked), batch_size):
            part = [(begin, size) for begin in begins[start : start + batch_size]]
            rows, read, hidden = (found.to(device) for found in _rows(part, _mask(tokenizer), end_of_text))
            logits = model(rows, attention_mask=read).logits.float().log_softmax(dim=-1)
            masked = logits[hidden].unflatten(0, (len(part), size))  # [questions, size, vocabulary]
            found = masked[:, torch.arange(size, device=device), wanted].sum(dim=-1)
            scores[start : start + len(part), of_size] = found.double().cpu().numpy()
    return scores


def _mask(tokenizer: Tokenizer) -> int:
    mask = tokenizer.token_to_id(MASK)
    if mask is None:
        raise ValueError("the tokenizer has no token for what is masked; take one of images and text")
    return mask


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def _begin(tokenizer: Tokenizer, image: str, asked: Question, end_of_text: int) -> list[int]:
    """What a model reads before the answer."""
    return [end_of_text, *_ids(tokenizer, image + asked.question)]


def _rows(asked: Sequence[tuple[Sequence[int], int]], mask: int, end_of_text: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows [questions, length] that begin so and go on with so many masked tokens; which of their tokens are read, the
    others being padding; and which are masked."""
    longest = max(len(begin) + size for begin, size in asked) + 1
    rows = torch.full((len(asked), longest), end_of_text)
    read = torch.zeros_like(rows)
    hidden = torch.zeros_like(rows, dtype=torch.bool)
    for row, (begin, size) in enumerate(asked):
        rows[row, : len(begin)] = torch.tensor(begin)
        read[row, : len(begin) + size + 1] = 1
        hidden[row, len(begin) : len(begin) + size] = True
    return rows.masked_fill(hidden, mask), read, hidden


def _nll(scores: npt.NDArray[np.float64], truth: npt.NDArray[np.int64]) -> float:
    of_all = np.logaddexp.reduce(scores, axis=1)
    return float((of_all - scores[np.arange(len(truth)), truth]).mean())


def _digits(of: npt.NDArray[np.bool_]) -> str:
    return "".join("1" if value else "0" for value in of)
