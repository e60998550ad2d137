"""Answers about images: of a model that knows them, and against one question at a time without padding."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import nn

from analysis.visual_questions import Answers, measure_answers
from mhmoe.data.images import MASK, VisualTokenizer, symbols
from mhmoe.data.local_images import Question
from mhmoe.data.tokenizer import train_tokenizer
from mhmoe.model.masked import language_model
from tests.small import make_config

BLACK, WHITE = (np.full((2, 2, 3), value, dtype=np.uint8) for value in (0, 255))
VISUAL = VisualTokenizer(np.stack([BLACK.reshape(-1), WHITE.reshape(-1)]), 2)
TEXTS = ["is it black? yes", "is it black? no", "what is it? black", "what is it? an unusually light grey"] * 50
TOKENIZER: Tokenizer = train_tokenizer(TEXTS, 300, symbols=symbols(2))
ASKED = [
    Question(BLACK, "is it black?", "yes"),
    Question(WHITE, "is it black?", "no"),
    Question(BLACK, "what is it?", "black"),
    Question(WHITE, "what is it?", "black"),
]


class Knows(nn.Module):
    """Says yes after a black patch and no after a white one, and after neither black; whatever is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(()))

    def forward(self, rows: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        logits = torch.zeros(*rows.shape, TOKENIZER.get_vocab_size())
        black, white = (rows == TOKENIZER.token_to_id(symbol) for symbol in symbols(2)[1:])
        masked = (rows == TOKENIZER.token_to_id(MASK)) & (attention_mask > 0)
        for row, seen in enumerate(torch.stack([black.any(-1), white.any(-1)], dim=-1).tolist()):
            answer = {(True, False): " yes", (False, True): " no"}.get(tuple(seen), " black")
            logits[row, masked[row], TOKENIZER.encode(answer).ids[0]] = 5.0
        return SimpleNamespace(logits=logits)


def test_who_sees_the_image_answers_by_it_and_who_does_not_by_the_question() -> None:
    model: Any = Knows()
    found = measure_answers(model, TOKENIZER, VISUAL, ASKED)
    assert found.answers == ["black", "no", "yes"] and found.yes_no == "1100"
    assert found.right == "1100" and found.right_hidden == "0011"
    assert found.accuracy() == 0.5 and found.accuracy("1") == 1.0 and found.accuracy("0") == 0.0
    assert found.accuracy(hidden=True) == 0.5
    odds = np.log(np.exp(5) + 2)  # of three answers one has 5 and the others 0
    assert found.nll == pytest.approx((2 * (odds - 5) + 2 * odds) / 4, rel=1e-5)


def test_answers_of_unequal_length_score_as_one_question_at_a_time_without_padding() -> None:
    config = make_config("xmoe", is_causal=False, vocab_size=300, max_position_embeddings=64)
    torch.manual_seed(0)
    model = language_model(config).eval()
    asked = [*ASKED, Question(WHITE, "what is it?", "an unusually light grey")]
    found = measure_answers(model, TOKENIZER, VISUAL, asked, batch_size=3)
    mask = TOKENIZER.token_to_id(MASK)
    right, losses = "", list[float]()
    for question in asked:
        scores: list[float] = []
        for answer in found.answers:
            begin = [0, *TOKENIZER.encode(VISUAL.encode(question.image) + question.question).ids]
            ids = TOKENIZER.encode(f" {answer}").ids
            with torch.no_grad():
                logits = model(torch.tensor([[*begin, *[mask] * len(ids), 0]])).logits[0].double().log_softmax(-1)
            scores.append(sum(float(logits[len(begin) + i, token]) for i, token in enumerate(ids)))
        truth = found.answers.index(question.answer)
        right += "1" if int(np.argmax(scores)) == truth else "0"
        losses.append(float(np.logaddexp.reduce(scores)) - scores[truth])
    assert len({len(TOKENIZER.encode(f" {answer}").ids) for answer in found.answers}) > 1
    assert found.right == right
    assert found.nll == pytest.approx(np.mean(losses), abs=1e-4)


def test_no_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="no questions"):
        measure_answers(language_model(make_config("xmoe", is_causal=False, vocab_size=300)), TOKENIZER, VISUAL, [])


def test_no_accuracy_is_known_of_a_kind_that_is_not_asked() -> None:
    found = Answers(questions=2, key="", answers=["a"], yes_no="00", right="10", right_hidden="00", nll=1, nll_hidden=1)
    assert found.accuracy("0") == found.accuracy() == 0.5 and math.isnan(found.accuracy("1"))
