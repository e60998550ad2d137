"""What a step of the layer takes on a card, counted on tensors without numbers, and held to what a card measured."""

import json
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.card_speed import subjects
from benchmarks.card_table import DIM, GOAL_BYTES, TOKENS
from mhmoe.layers import card
from mhmoe.layers.experts import use_slices
from tests.commands import ROOT


class Allocated(TorchDispatchMode):
    """Bytes of all storages that are alive, and their largest sum, apart from those of `given`."""

    def __init__(self, given: list[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: dict[int, int] = {tensor.untyped_storage()._cdata: 0 for tensor in given}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.known:
                storage = tensor.untyped_storage()
                self.known[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self.free, storage._cdata)
        self.peak = max(self.peak, self.now)
        return out

    def free(self, key: int) -> None:
        self.now -= self.known.pop(key)


@pytest.fixture(autouse=True)
def on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor counts as lying on an H100 without Triton."""
    monkeypatch.setattr(card, "on_card", lambda x: True)
    monkeypatch.setattr(card, "capability", lambda device: 90)
    monkeypatch.setattr(card, "TRITON_IS_THERE", False)


def memory_of_a_step(name: str, slices: int = 1) -> int:
    """Forward and backward of 32,768 tokens in bfloat16, on top of weights and input, gradients included."""
    subject = next(s for s in subjects(quick=False) if s.layer == name and s.path == "torch")
    with FakeTensorMode():
        module = as_bfloat16(use_slices(subject.make(), slices))
        x = torch.empty(TOKENS * DIM // subject.width, subject.width, dtype=torch.bfloat16, requires_grad=True)
        grad, parameters = torch.empty_like(x), list(module.parameters())
        with Allocated([x, grad, *parameters]) as counted:
            output = module(x)
            losses = [output.hidden, output.balance_loss]
            gradients = torch.autograd.grad(losses, [x, *parameters], [grad, torch.ones_like(output.balance_loss)])
        assert len(gradients) == 1 + len(parameters)
    return counted.peak


def as_bfloat16(module: nn.Module) -> nn.Module:
    """Fake parameters cannot be converted in place."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(parameter.to(torch.bfloat16)))
    return module


@pytest.mark.parametrize(
    "name",
    ["X-MoE, 8", "MH-MoE at equal FLOPs, 8", "MH-MoE at equal parameters, 8", "SwiGLU on sub-tokens, k = 2, 8"],
)
def test_what_is_counted_is_what_an_h200_measured(name: str) -> None:
    rows = json.loads((ROOT / "results" / "speed" / "card.json").read_text(encoding="utf-8"))["rows"]
    (measured,) = (row["memory"] for row in rows if (row["layer"], row["path"]) == (name, "torch"))
    assert memory_of_a_step(name) == pytest.approx(measured, rel=0.05)


def test_in_six_slices_mhmoe_takes_less_than_a_gigabyte() -> None:
    sliced, whole = (memory_of_a_step("MH-MoE at equal FLOPs, 8", slices=n) for n in (6, 1))
    assert sliced < GOAL_BYTES < whole
    told = " ".join((ROOT / "docs" / "how" / "layer.md").read_text(encoding="utf-8").split())
    assert f"needs {sliced / 1e9:.2f} GB on top of weights and input, and {whole / 1e9:.1f} GB without" in told
