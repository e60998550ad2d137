"""Answers about images: of a model that knows them, and against one question at a time without padding."""

import dataclasses
import math
import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import nn

from analysis.visual_questions import Answers, fine_tune, measure_answers
from mhmoe.data.images import MASK, VisualTokenizer, symbols
from mhmoe.data.local_images import Question
from mhmoe.data.tokenizer import train_tokenizer
from mhmoe.io import RunError
from mhmoe.layers.switch_router import SwitchRouterConfig
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.model.masked import language_model
from mhmoe.training.config import TrainingConfig
from mhmoe.training.seeding import seed_parameters
from tests.small import DIM, make_config, xmoe

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


def test_a_tokenizer_of_text_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="no token for what is masked"):
        measure_answers(made(), train_tokenizer(TEXTS, 300), VISUAL, ASKED)


def test_no_accuracy_is_known_of_a_kind_that_is_not_asked() -> None:
    found = Answers(questions=2, key="", answers=["a"], yes_no="00", right="10", right_hidden="00", nll=1, nll_hidden=1)
    assert found.accuracy("0") == found.accuracy() == 0.5 and math.isnan(found.accuracy("1"))


# ---- fine-tuning ------------------------------------------------------------------------------

TRAINING = TrainingConfig(steps=150, batch_sequences=4, length=16, learning_rate=4e-3, precision="float32")


def made(kind: str = "dense", **changes: Any) -> MHMoEForCausalLM:
    sizes: dict[str, Any] = {"is_causal": False, "vocab_size": 300, "max_position_embeddings": 64}
    model = language_model(make_config(kind, **sizes, **changes))
    seed_parameters(model, 1)
    return model.eval()


def trained(model: MHMoEForCausalLM, asked: Sequence[Question], seed: int = 1, **more: Any) -> list[torch.Tensor]:
    fine_tune(model, TOKENIZER, VISUAL, asked, dataclasses.replace(TRAINING, **more), seed=seed)
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_a_fine_tuned_model_answers_by_the_image() -> None:
    asked = [*ASKED[:3], Question(WHITE, "what is it?", "an unusually light grey")]
    model = made("mhmoe compute")
    before = measure_answers(model, TOKENIZER, VISUAL, asked)
    trained(model, asked)
    after = measure_answers(model, TOKENIZER, VISUAL, asked)
    assert before.accuracy() < 1.0 == after.accuracy()
    assert after.nll < math.log(2) < before.nll  # each question has two answers, which only the image tells apart
    assert after.accuracy(hidden=True) == 0.5 and after.nll_hidden > math.log(2)
    assert not model.training


def test_a_step_is_that_of_the_mean_over_answer_tokens_read_one_question_at_a_time() -> None:
    asked = [ASKED[0], Question(WHITE, "what is it?", "an unusually light grey")]
    ours = trained(model := made(), asked, steps=1, batch_sequences=2, warmup=0.0, clip_norm=1e9, eps=1.0)
    by_hand, mask = made(), TOKENIZER.token_to_id(MASK)
    losses: list[torch.Tensor] = []
    for question in asked:
        begin = [0, *TOKENIZER.encode(VISUAL.encode(question.image) + question.question).ids]
        ids = TOKENIZER.encode(f" {question.answer}").ids
        logits = by_hand(torch.tensor([[*begin, *[mask] * len(ids), 0]])).logits[0].log_softmax(-1)
        losses += [-logits[len(begin) + i, token] for i, token in enumerate(ids)]
    torch.stack(losses).mean().backward()
    names = [name for name, _ in model.named_parameters()]
    for name, parameter, found in zip(names, by_hand.parameters(), ours, strict=True):
        # Adam's first step, with an eps so large that it is nearly one of gradient descent
        decay = 0.01 if parameter.ndim >= 2 else 0.0
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        expected = parameter * (1 - 4e-3 * decay) - 4e-3 * gradient / (gradient.abs() + 1.0)
        assert torch.allclose(found, expected, atol=1e-7), name


def test_the_same_seed_gives_the_same_weights_and_another_reads_another_order() -> None:
    first, again, other = (trained(made(), ASKED, seed, steps=3, batch_sequences=2) for seed in (1, 1, 2))
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))


def test_what_a_router_draws_is_of_the_seed_and_the_step() -> None:
    moe = dataclasses.replace(xmoe(), router=SwitchRouterConfig(dim=DIM, num_experts=4, jitter=0.3)).to_dict()
    found: list[list[torch.Tensor]] = []
    for state in (5, 6):
        model = made(moe=moe)
        torch.manual_seed(state)
        found.append(trained(model, ASKED, steps=2))
    assert all(map(torch.equal, *found))


def test_a_loss_that_is_not_finite_is_told() -> None:
    with pytest.raises(RunError, match=r"not finite at step \d; lower learning_rate=1e\+30"):
        trained(made(), ASKED, steps=3, learning_rate=1e30, clip_norm=1e9)


def test_an_epoch_has_every_question_once_and_the_next_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [Question(BLACK, f"is it {number}?", "yes") for number in range(6)]
    model, read = made(), list[str]()
    forward = model.forward

    def noted(rows: torch.Tensor, **more: Any) -> Any:
        read.extend(re.findall(r"is it (\d)\?", " ".join(map(TOKENIZER.decode, rows.tolist()))))
        return forward(rows, **more)

    monkeypatch.setattr(model, "forward", noted)
    trained(model, asked, steps=6, batch_sequences=3)
    epochs = [read[begin : begin + 6] for begin in (0, 6, 12)]
    assert all(sorted(epoch) == [*"012345"] for epoch in epochs) and epochs[0] != epochs[1]


def test_parts_keep_their_multiples_of_the_learning_rate() -> None:
    model = made("mhmoe compute")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained(model, ASKED, steps=1, warmup=0.0, weight_decay=0.0, lr_multipliers=(("head", 1e-3), ("merge", 1e-3)))
    moved = {name: (p.detach() - before[name]).abs().max() for name, p in model.named_parameters()}
    slow = [value for name, value in moved.items() if ".head." in name or ".merge." in name]
    assert slow and max(slow) < 5e-6 < 1e-3 < max(moved.values())


def test_no_questions_to_train_on_are_refused() -> None:
    with pytest.raises(ValueError, match="no questions to train on"):
        trained(made(), [])
