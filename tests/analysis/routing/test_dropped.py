"""What a capacity drops is counted as in training, and nothing of the model changes."""

import numpy as np
import pytest
import torch

from analysis.routing.dropped import measure_dropped
from analysis.routing.text import Windows, routes, windows_of
from baselines.densely_gated import densely_gated
from baselines.gshard import gshard
from baselines.switch import switch
from mhmoe.layers.experts import FeedForwardConfig
from mhmoe.layers.switch_router import SwitchRouter
from tests import tiny

LENGTH = 16


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Windows:
    return windows_of(tiny.text(tmp_path_factory.mktemp("packed")).test, LENGTH).full.spaced(9)


def test_without_a_capacity_nothing_is_dropped(windows: Windows) -> None:
    for system in ("xmoe", "mhmoe_compute"):
        found = measure_dropped(tiny.model(system), windows, batch_size=4)
        assert found is not None and found.tokens == 2 * 4 * LENGTH  # whole batches alone
        assert found.selections_share == found.tokens_share == [0.0]


def test_with_one_choice_a_dropped_selection_is_a_dropped_token(windows: Windows) -> None:
    model = tiny.model("xmoe", moe=switch(tiny.DIM, 4, expert_dim=16, capacity_factor=0.5).to_dict())
    with torch.no_grad():  # all to the first expert, which takes an eighth of a batch
        (router,) = [module for module in model.modules() if isinstance(module, SwitchRouter)]
        router.expert_embeddings.zero_()
    found = measure_dropped(model, windows, batch_size=4)
    assert found is not None
    assert found.selections_share == found.tokens_share == pytest.approx([7 / 8])


def test_a_token_counts_as_dropped_only_if_no_choice_of_it_counts(windows: Windows) -> None:
    model = tiny.model("xmoe", moe=gshard(tiny.DIM, 4, expert_dim=16, capacity_factor=0.3).to_dict())
    found = measure_dropped(model, windows, batch_size=4)
    assert found is not None
    (selections,), (tokens,) = found.selections_share, found.tokens_share
    assert 0 < tokens < selections < 1


def test_the_same_is_drawn_each_time_and_the_generator_stays_as_it_was(windows: Windows) -> None:
    model = tiny.model("xmoe", moe=gshard(tiny.DIM, 4, expert_dim=16).to_dict()).eval()
    before = torch.get_rng_state()
    first, second = (measure_dropped(model, windows, batch_size=4) for _ in range(2))
    assert first == second and torch.equal(torch.get_rng_state(), before) and not model.training


def test_a_model_that_routes_nothing_has_nothing_to_drop(windows: Windows) -> None:
    one = tiny.model("xmoe", moe=FeedForwardConfig(dim=tiny.DIM, inner_dim=8).to_dict())
    every = tiny.model("xmoe", moe=densely_gated(tiny.DIM, 4, expert_dim=8).to_dict())
    for model in (one, every):
        assert measure_dropped(model, windows, batch_size=4) is None and not routes(model)
    assert routes(tiny.model("mhmoe_compute"))


def test_too_little_text_for_a_batch_is_said(windows: Windows) -> None:
    with pytest.raises(ValueError, match="9 full windows are fewer than batch_size=10"):
        measure_dropped(tiny.model("xmoe"), windows, batch_size=10)


def test_full_windows_are_those_without_padding(windows: Windows) -> None:
    assert windows.read.all() and windows.full.inputs.shape == windows.inputs.shape
    padded = Windows(
        inputs=windows.inputs,
        read=np.where(np.arange(9)[:, None] == 3, np.arange(LENGTH) < 5, windows.read),
        document=windows.document,
        token=windows.token,
        num_documents=windows.num_documents,
    )
    assert np.array_equal(padded.full.inputs, np.delete(windows.inputs, 3, axis=0))
