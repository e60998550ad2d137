"""Sparsity of dense networks: against a plain recomputation, and numbers whose shares are known."""

import numpy as np
import pytest
import torch

from analysis.routing.text import windows_of_ids
from analysis.sparsity import measure_sparsity, measures
from mhmoe.layers.experts import FeedForwardConfig
from tests.small import make, make_config


def test_shares_of_numbers_whose_shares_are_known() -> None:
    rows = torch.tensor([[0.0, 0.0, 3.0, 4.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.01, 0.0, 0.0, 9.0]])
    zero, small, holding = measures(rows).T.tolist()
    assert zero == [0.5, 0.0, 1.0, 0.5]
    assert small == [0.5, 0.0, 0.0, 0.75]
    assert holding == [0.5, 1.0, 0.0, 0.25]  # 16 of 25 is 64%; all four ones; nothing; one


def test_the_measures_do_not_depend_on_the_scale() -> None:
    inner = torch.randn(20, 50).relu()
    assert torch.allclose(measures(inner), measures(1e-3 * inner))


@pytest.mark.parametrize("activation", ["relu", "gelu", "swiglu"])
def test_a_models_shares_are_those_of_its_recomputed_inner_numbers(activation: str) -> None:
    network = FeedForwardConfig(dim=24, inner_dim=32, activation=activation)  # pyright: ignore
    model = make("xmoe", moe=None, feed_forward=network).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    windows = windows_of_ids([[1, 5, 9, 2, 7], [3, 4]], 6)
    tokens, found = measure_sparsity(model, windows, batch_size=1)
    assert tokens == windows.read.sum() and len(found.zero) == model.config.num_hidden_layers
    assert (sum(found.zero) > 0) == (activation == "relu")

    inner: list[torch.Tensor] = []
    for block in model.model.layers:
        block.feed_forward.down_proj.register_forward_pre_hook(lambda _, given: inner.append(given[0]))
    with torch.no_grad():
        model(torch.from_numpy(windows.inputs), attention_mask=torch.from_numpy(windows.read).long())
    exact = [measures(one[torch.from_numpy(windows.read)]).mean(0).tolist() for one in inner]
    assert np.allclose(np.array([found.zero, found.small, found.holding_90]).T, exact, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_without_a_dense_network_is_refused() -> None:
    every_block = make("xmoe", moe_every=1)
    with pytest.raises(ValueError, match="no dense feed-forward network"):
        measure_sparsity(every_block, windows_of_ids([[1, 2]], 4))
    assert make_config("xmoe", moe_every=1).is_moe_block(0)
