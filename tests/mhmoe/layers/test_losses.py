"""The balance loss of v1 Eq. 10, by hand and at its extremes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mhmoe.layers.losses import balance_loss, load_fractions, router_z_loss, squared_coefficient_of_variation
from tests import reference


def test_equation_10_by_hand() -> None:
    probabilities = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.7, 0.2, 0.1], [0.5, 0.1, 0.4]])
    index = torch.tensor([[0], [1], [0], [0]])
    # loads 3/4, 1/4, 0; mean gates 2.0/4, 1.1/4, 0.9/4; three experts
    by_hand = 3 * (3 / 4 * 2.0 / 4 + 1 / 4 * 1.1 / 4)
    assert balance_loss(probabilities, index).item() == pytest.approx(by_hand, rel=1e-6)


@settings(max_examples=20)
@given(st.integers(1, 12), st.integers(1, 4))
def test_it_is_one_when_everything_is_uniform(num_experts: int, top_k: int) -> None:
    top_k = min(top_k, num_experts)
    rows = torch.arange(num_experts * 3)
    index = (rows.unsqueeze(-1) + torch.arange(top_k)) % num_experts
    probabilities = torch.full((len(rows), num_experts), 1 / num_experts)
    assert balance_loss(probabilities, index).item() == pytest.approx(1, rel=1e-6)


@settings(max_examples=12)
@given(st.integers(1, 12))
def test_it_is_the_number_of_experts_when_one_takes_all(num_experts: int) -> None:
    probabilities = torch.nn.functional.one_hot(torch.zeros(7, dtype=torch.long), num_experts).float()
    assert balance_loss(probabilities, torch.zeros(7, 1, dtype=torch.long)).item() == num_experts


@settings(max_examples=40)
@given(rows=st.integers(1, 9), num_experts=st.integers(1, 6), top_k=st.integers(1, 6), seed=st.integers(0, 9999))
def test_it_agrees_with_a_loop_over_rows_and_experts(rows: int, num_experts: int, top_k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.randn(rows, num_experts, generator=generator).softmax(-1)
    index = probabilities.topk(min(top_k, num_experts)).indices
    mask = torch.rand(rows, generator=generator) < 0.7
    loop = reference.balance_loss(list(probabilities.double()), index.tolist(), mask.tolist())
    assert balance_loss(probabilities, index, mask).item() == pytest.approx(float(loop), rel=1e-6, abs=1e-7)


def test_padded_rows_count_in_neither_factor() -> None:
    probabilities, index = torch.randn(2, 6, 4).softmax(-1), torch.randint(0, 4, (2, 6, 2))
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    expected = balance_loss(probabilities[mask], index[mask])
    assert torch.allclose(balance_loss(probabilities, index, mask), expected)
    assert not torch.allclose(balance_loss(probabilities, index), expected)


def test_without_any_row_it_is_zero() -> None:
    probabilities, index = torch.randn(3, 4).softmax(-1), torch.zeros(3, 1, dtype=torch.long)
    assert balance_loss(probabilities, index, torch.zeros(3, dtype=torch.bool)) == 0
    assert balance_loss(probabilities[:0], index[:0]) == 0


def test_its_gradient_pushes_down_the_gates_of_loaded_experts() -> None:
    probabilities = torch.full((4, 2), 0.5, requires_grad=True)
    balance_loss(probabilities, torch.tensor([[0], [0], [0], [1]])).backward()
    assert probabilities.grad is not None
    # N t_p / rows
    assert torch.allclose(probabilities.grad, torch.tensor([2 * 0.75 / 4, 2 * 0.25 / 4]).expand(4, 2))


def test_load_fractions_sum_to_one_over_experts() -> None:
    index = torch.tensor([[0, 1], [0, 2], [0, 1]])
    expected = torch.tensor([3, 2, 1, 0]) / 6
    assert torch.allclose(load_fractions(index, 4), expected)
    mask = torch.tensor([True, False, True])
    assert torch.allclose(load_fractions(index, 4, mask), torch.tensor([2, 2, 0, 0]) / 4)


def test_the_squared_coefficient_of_variation_is_that_of_the_load() -> None:
    assert squared_coefficient_of_variation(torch.full((5,), 0.2)).item() == pytest.approx(0, abs=1e-7)
    assert squared_coefficient_of_variation(torch.tensor([1.0, 3.0])).item() == pytest.approx(0.25)
    assert squared_coefficient_of_variation(torch.zeros(3)).item() == 0


def test_the_z_loss_is_the_mean_squared_log_partition() -> None:
    scores = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    first, second = torch.tensor(2.0).log(), (torch.tensor(1.0).exp() + torch.tensor(2.0).exp()).log()
    assert torch.allclose(router_z_loss(scores), (first**2 + second**2) / 2)
    assert torch.allclose(router_z_loss(scores, torch.tensor([True, False])), first**2)
