"""The path that a graphics card takes, in torch alone: the same numbers as on a CPU, and nothing the host waits for.

There is no card here. The path is chosen by `card.on_card`, which these tests answer with yes; tests/gpu/ holds the
same on a card, where there is one.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call
from torch.nn import functional as F

from mhmoe.layers import card, dispatch, grouped, grouped_on_card
from mhmoe.layers.routing import best
from tests import reference
from tests.commands import program
from tests.cuda_autocast import CudaAutocast
from tests.mhmoe.layers.test_contract import ROWS, SUBJECTS, kinds, total
from tests.systems import DIM

READ_NUMBERS = ("hierarchical_moe",)
"""Chooses rows for each of its few layers: running all of them on all rows would cost more than waiting."""
WITHOUT_WAITING = {
    name: layer
    for name, layer in SUBJECTS.items()
    if not kinds([layer]) & set(READ_NUMBERS) and name != "overflow: next"
}


@contextlib.contextmanager
def a_card() -> Iterator[None]:
    """Every tensor counts as lying on a card without Triton."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(card, "on_card", lambda x: True)
        patch.setattr(card, "TRITON_IS_THERE", False)
        yield


def test_the_path_is_chosen_by_the_device_of_the_tensor() -> None:
    with FakeTensorMode():
        assert card.on_card(torch.empty(3, device="cuda")) and not card.on_card(torch.empty(3))
    assert not card.on_card(torch.empty(3, device="meta")) and not card.triton_runs(torch.empty(3, 4))


@pytest.mark.parametrize("name", SUBJECTS)
def test_by_the_rules_of_a_cards_autocast_it_trains(name: str) -> None:
    x, layer = torch.randn(*ROWS, DIM), SUBJECTS[name].build()
    reference.randomise(layer, 0)
    with a_card(), CudaAutocast():
        with torch.autocast("cpu", torch.bfloat16):
            output = layer(x)
        total(output).backward()
    gradients = [p.grad for p in layer.parameters() if p.grad is not None]
    assert gradients and all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)


def test_those_rules_widen_sums_that_name_no_type() -> None:
    narrow = torch.ones(3, dtype=torch.bfloat16)
    with CudaAutocast(), torch.autocast("cpu", torch.bfloat16):
        assert narrow.sum().dtype == torch.float32 and narrow.sum(dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_card_computes_what_a_cpu_does(name: str) -> None:
    results: list[list[Tensor]] = []
    for context in (contextlib.nullcontext(), a_card()):
        torch.manual_seed(0)
        layer = SUBJECTS[name].build().eval()
        reference.randomise(layer, 0)
        x = torch.randn(*ROWS, DIM, requires_grad=True)
        with context:
            output = layer(x)
            gradients = torch.autograd.grad(total(output), [x, *layer.parameters()], allow_unused=True)
        results.append([output.hidden, *(g for g in gradients if g is not None)])
    assert len(results[0]) == len(results[1])
    for ours, theirs in zip(*results, strict=True):
        assert reference.error(theirs, ours) < 1e-5


@pytest.mark.parametrize("name", WITHOUT_WAITING)
def test_no_step_of_a_layer_waits_for_numbers(name: str) -> None:
    """Fake tensors have none: whoever asks for one, or for a shape that depends on some, is refused."""
    layer = SUBJECTS[name].build().train()
    with a_card(), FakeTensorMode() as fake:
        state: dict[str, Tensor] = {
            n: fake.from_tensor(t) for n, t in [*layer.named_parameters(), *layer.named_buffers()]
        }
        x = torch.randn(*ROWS, DIM, requires_grad=True)
        total(functional_call(layer, state, (x, torch.rand(ROWS) < 0.7))).backward()
        assert x.grad is not None and x.grad.shape == x.shape


@pytest.mark.parametrize("ask", [Tensor.item, Tensor.tolist, Tensor.nonzero, Tensor.unique], ids=lambda f: f.__name__)
def test_a_fake_tensor_refuses_who_asks_for_numbers(ask: Any) -> None:
    with FakeTensorMode():
        x = torch.ones(1)
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException, RuntimeError)):
            ask(x)


@pytest.mark.parametrize("most", [1, 3, 7, 1023])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_number_of_experts_goes_by_grouped_products_without_reading_offsets(
    most: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouped_on_card, "MOST_GROUPS", most)
    sizes = torch.tensor([0, 3, 0, 0, 4, 1, 0, 2, 0, 5, 0])
    ends = sizes.cumsum(0).int()
    x, grad = torch.randn(15, 8).to(dtype), torch.randn(15, 16).to(dtype)
    weight = torch.randn(11, 16, 8).to(dtype)
    y, weight_grad = grouped_on_card.linear_in_calls(x, weight, ends), grouped_on_card.outer_in_calls(grad, x, ends)
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-6
    assert reference.error(y, grouped.loop_linear(x, weight, ends)) < tolerance
    groups = zip(grad.split(sizes.tolist()), x.split(sizes.tolist()), strict=True)
    expected = torch.stack([g.float().T @ rows.float() for g, rows in groups])
    assert reference.error(weight_grad, expected) < tolerance and not weight_grad[sizes == 0].any()


def test_two_thousand_experts_are_three_calls_none_of_which_reads_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def product(a: Tensor, b: Tensor, offs: Tensor) -> Tensor:
        assert len(offs) < 1024, "torch's kernel refuses them"
        calls.append(len(offs))
        return torch.ops.aten._grouped_mm(a, b, offs)

    monkeypatch.setattr(F, "grouped_mm", product)
    with FakeTensorMode():
        x, grad, weight = (torch.randn(*s).bfloat16() for s in ((64, 8), (64, 16), (2047, 16, 8)))
        ends = torch.zeros(2047, dtype=torch.int32)
        assert grouped_on_card.linear_in_calls(x, weight, ends).shape == (64, 16)
        assert grouped_on_card.outer_in_calls(grad, x, ends).shape == weight.shape
    assert calls == [1023, 1023, 1] * 2


@pytest.mark.parametrize("num_experts", [1, 5, 40_000], ids="{} experts".format)
@pytest.mark.parametrize("top_k", [1, 3])
def test_selections_are_sorted_as_on_a_cpu_without_what_fills_up_a_share(
    num_experts: int, top_k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = torch.randint(0, num_experts, (50, top_k))
    monkeypatch.setattr(dispatch, "BLOCK", 1)
    expected = dispatch.sort_by_expert(index, num_experts)
    with a_card():
        found = dispatch.sort_by_expert(index, num_experts)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs) and ours.dtype == theirs.dtype


def test_the_best_expert_is_a_maximum_with_the_gradient_of_top_k() -> None:
    gates = torch.rand(50, 7, requires_grad=True)
    weight, index = best(gates, 1)
    (expected,) = torch.autograd.grad(weight.square().sum(), gates)
    with a_card():
        value, place = best(gates, 1)
    assert torch.equal(value, weight) and torch.equal(place, index) and place.shape == (50, 1)
    assert torch.equal(torch.autograd.grad(value.square().sum(), gates)[0], expected)


def test_of_equal_gates_a_card_takes_the_first() -> None:
    with a_card():
        assert best(torch.tensor([[0.2, 0.4, 0.4], [0.5, 0.5, 0.0]]), 1)[1].tolist() == [[1], [0]]


@pytest.mark.parametrize("top_k", [1, 2])
def test_gathering_and_combining_on_a_card_have_gradients_of_any_order(top_k: int) -> None:
    with a_card():
        order = dispatch.sort_by_expert(torch.tensor([[0, 2], [2, 1], [0, 1], [1, 0]])[:, :top_k], 3)

        def there_and_back(x: Tensor, weight: Tensor) -> Tensor:
            return dispatch.combine(dispatch.gather(x, order).square(), weight, order)

        inputs = tuple(torch.randn(4, n, dtype=torch.float64, requires_grad=True) for n in (3, top_k))
        assert gradcheck(there_and_back, inputs) and gradgradcheck(there_and_back, inputs)


COMPILED = """
import torch
from mhmoe.layers import card

card.on_card, card.TRITON_IS_THERE = lambda x: True, True
torch.cuda.get_device_capability = lambda index: (9, 0)


def asks(x):
    return x + 1 if card.triton_runs(x) or card.grouped_mm_is_fast(x) else x + card._capability(0)


assert torch.compile(asks, backend="aot_eager", fullgraph=True)(torch.zeros(1)).item() == 90
"""


def test_what_a_card_is_asked_does_not_break_a_compiled_graph() -> None:
    done = program(COMPILED).wait()
    assert done.code == 0, done.err
