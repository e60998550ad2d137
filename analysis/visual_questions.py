"""Questions about images, answered by a model of masked tokens: which answer it finds likeliest where one is masked.

    score(answer) = sum over the answer's tokens of log p(token | image, question, all of the answer masked)      nats

The answers to choose among are those of all the questions. Asked once with the image and once with all of it masked:
what a model answers then it knows from the questions alone. v1 trains its models further on the questions of VQAv2, as
BEiT-3 does; here the training text has questions of the same kind with their answers, and nothing is trained further.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from analysis.claims.measured import Items, Quantity
from analysis.results import Result
from mhmoe.data.images import MASK, VisualTokenizer
from mhmoe.data.local_images import Question
from mhmoe.model.language_model import MHMoEForCausalLM

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
LIKELIHOOD = Quantity[Answers](name="log-likelihood", unit="nats", of=lambda found: -found.nll)


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
    answer_ids = [tokenizer.encode(f" {answer}", add_special_tokens=False).ids for answer in answers]
    begins = [
        [end_of_text, *tokenizer.encode(image + question.question, add_special_tokens=False).ids]
        for image, question in zip(images, asked, strict=True)
    ]
    scores = np.empty((len(asked), len(answers)))
    for size in {len(ids) for ids in answer_ids}:
        of_size = [number for number, ids in enumerate(answer_ids) if len(ids) == size]
        wanted = torch.tensor([answer_ids[number] for number in of_size], device=device)
        for start in range(0, len(asked), batch_size):
            part = begins[start : start + batch_size]
            longest = max(map(len, part)) + size + 1
            rows = torch.full((len(part), longest), end_of_text, device=device)
            read = torch.zeros_like(rows)
            for row, begin in enumerate(part):
                filled = torch.tensor([*begin, *[tokenizer.token_to_id(MASK)] * size, end_of_text])
                rows[row, : len(filled)], read[row, : len(filled)] = filled.to(device), 1
            logits = model(rows, attention_mask=read).logits.float().log_softmax(dim=-1)
            places = torch.tensor([len(begin) for begin in part], device=device)[:, None] + torch.arange(
                size, device=device
            )
            masked = logits[torch.arange(len(part), device=device)[:, None], places]  # [questions, size, vocabulary]
            found = masked[:, torch.arange(size, device=device), wanted].sum(dim=-1)
            scores[start : start + len(part), of_size] = found.double().cpu().numpy()
    return scores


def _nll(scores: npt.NDArray[np.float64], truth: npt.NDArray[np.int64]) -> float:
    of_all = np.logaddexp.reduce(scores, axis=1)
    return float((of_all - scores[np.arange(len(truth)), truth]).mean())


def _digits(of: npt.NDArray[np.bool_]) -> str:
    return "".join("1" if value else "0" for value in of)
