"""transformers' Trainer: what it minimises, what it reports, what it predicts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments

from tests.small import make

SCORED = (9, 4, 7, 8)  # labels of each row
WEIGHT = 0.5


def rows() -> list[dict[str, Tensor]]:
    made: list[dict[str, Tensor]] = []
    for i, scored in enumerate(SCORED):
        ids = torch.randint(1, 61, (10,), generator=torch.Generator().manual_seed(i))
        made.append({"input_ids": ids, "labels": torch.where(torch.arange(10) <= scored, ids, -100)})
    return made


def batch(first: int = 0, last: int = len(SCORED)) -> dict[str, Tensor]:
    return {name: torch.stack([row[name] for row in rows()[first:last]]) for name in ("input_ids", "labels")}


class InOrder(Trainer):
    def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
        return SequentialSampler(rows())


class WithRouting(Trainer):
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        output = model(**inputs, output_routing=True)
        return (output.loss, output) if return_outputs else output.loss


def trainer(model: Any, folder: Path, kind: type[Trainer] = InOrder, **options: Any) -> Trainer:
    """One step of plain gradient descent with rate 1."""
    plain: dict[str, Any] = {"optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant", "max_grad_norm": 0}
    quiet: dict[str, Any] = {"report_to": [], "disable_tqdm": True, "save_strategy": "no", "use_cpu": True}
    quiet |= {"dataloader_pin_memory": False, "per_device_eval_batch_size": 2, "max_steps": 1}
    arguments = TrainingArguments(output_dir=str(folder), **plain | quiet | options)
    data: Any = rows()
    return kind(model, arguments, train_dataset=data, eval_dataset=data)


def gradient_that_trainer_takes(model: Any, folder: Path, **options: Any) -> dict[str, Tensor]:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer(model, folder, **options).train()
    taken = {name: before[name] - value for name, value in model.state_dict().items()}
    model.load_state_dict(before)
    model.zero_grad()
    return taken


def assert_gradient(model: Any, loss: Tensor, taken: dict[str, Tensor]) -> None:
    loss.backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(taken[name], parameter.grad, atol=1e-5), name
    assert max(float(value.abs().max()) for value in taken.values()) > 0.1


@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_a_step_descends_on_the_nll_of_all_labels_and_the_balance_losses_by_their_labels(
    micro_batches: int, tmp_path: Path
) -> None:
    model, size = make("mhmoe parameters", balance_weight=WEIGHT), len(SCORED) // micro_batches
    taken = gradient_that_trainer_takes(
        model, tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=micro_batches
    )
    loss = torch.zeros(())
    for first in range(0, len(SCORED), size):
        inputs, scored = batch(first, first + size), sum(SCORED[first : first + size])
        output = model.train()(inputs["input_ids"])
        targets = inputs["labels"][:, 1:].flatten()
        nll = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), targets, reduction="sum")
        loss = loss + (nll + WEIGHT * scored * output.balance_loss) / sum(SCORED)
    assert_gradient(model, loss, taken)


@pytest.mark.parametrize("system", ["dense", "xmoe"])
def test_the_loss_of_evaluation_is_the_nll_per_label_without_a_balance_loss(system: str, tmp_path: Path) -> None:
    model = make(system, balance_weight=WEIGHT)
    losses: list[float] = []
    for first in (0, 2):
        inputs = batch(first, first + 2)
        logits, targets = model(inputs["input_ids"]).logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten()
        losses.append(F.cross_entropy(logits, targets).item())
    assert trainer(model, tmp_path).evaluate()["eval_loss"] == pytest.approx(sum(losses) / 2, rel=1e-5)


@pytest.mark.parametrize("kind", [Trainer, WithRouting])
def test_predictions_are_the_logits_alone(kind: type[Trainer], tmp_path: Path) -> None:
    model = make("mhmoe compute")
    predicted = trainer(model, tmp_path, kind).predict(rows()).predictions  # pyright: ignore[reportArgumentType]
    assert torch.allclose(torch.as_tensor(predicted), model(batch()["input_ids"]).logits, atol=1e-5)


@pytest.mark.parametrize(("system", "weight"), [("dense", WEIGHT), ("xmoe", 0.0)])
def test_smoothed_labels_are_shifted(system: str, weight: float, tmp_path: Path) -> None:
    """(1 - e) times nll plus e times the mean of -log p over the vocabulary (Szegedy et al. 2016, section 7)."""
    model = make(system, balance_weight=weight)
    taken = gradient_that_trainer_takes(model, tmp_path, label_smoothing_factor=0.1, per_device_train_batch_size=4)
    inputs = batch()
    logits, targets = model.train()(inputs["input_ids"]).logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten()
    assert_gradient(model, F.cross_entropy(logits, targets, label_smoothing=0.1), taken)


def test_smoothed_labels_that_would_lose_the_balance_loss_are_refused_in_one_line(tmp_path: Path) -> None:
    smoothing = trainer(make("xmoe"), tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match="the balance loss would be lost; set label_smoothing_factor=0, or") as error:
        smoothing.train()
    assert "\n" not in str(error.value)
