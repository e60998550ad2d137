"""Speeds are beside dense models of the same size, and ratios are of steps that were taken in turns."""

import pytest
import torch

from analysis.speed import Speeds, dense_peers, measure_speed
from baselines.hierarchical import hierarchical
from mhmoe.layers.config import config_from_dict
from mhmoe.layers.experts import FeedForwardConfig
from mhmoe.layers.normed import NormedConfig
from tests import tiny


@pytest.mark.parametrize("system", ["xmoe", "mhmoe_compute"])
def test_the_dense_models_have_the_parameters_and_the_flops_of_the_model(system: str) -> None:
    whole = tiny.config(system)
    peers = dense_peers(whole)
    step = 2 * tiny.DIM  # parameters of one inner unit; its FLOPs are twice as many
    assert abs(peers["same_parameters"].parameters() - whole.parameters()) <= step / 2
    assert abs(peers["same_flops"].flops_per_token() - whole.flops_per_token()) <= step
    assert peers["same_parameters"].layer(1).flops_per_token() > 3 * whole.layer(1).flops_per_token()


def test_the_network_of_a_dense_model_is_like_those_of_the_other_blocks_norm_or_not() -> None:
    network = FeedForwardConfig(dim=tiny.DIM, inner_dim=48, activation="swiglu")
    moe = hierarchical(tiny.DIM, 2, 2, expert_dim=16)
    normed = NormedConfig(inner=network)
    peers = dense_peers(tiny.config("xmoe", moe=moe.to_dict(), feed_forward=normed.to_dict()))
    for peer in peers.values():
        found = config_from_dict(peer.moe)
        assert isinstance(found, FeedForwardConfig) and found.activation == "swiglu"


def test_a_dense_model_is_its_own_peer() -> None:
    config = tiny.config("dense")
    assert all(peer.to_dict() == config.to_dict() for peer in dense_peers(config).values())


def test_every_round_is_counted_and_tokens_are_those_of_a_step() -> None:
    tokens = torch.randint(1, 300, (4, 17), generator=torch.Generator().manual_seed(0))
    found = measure_speed(
        tiny.model("mhmoe_compute"), tokens, precision="float32", rounds=3, prompt=4, new_tokens=5, texts=2
    )
    assert (found.training.tokens, found.generation.tokens) == (4 * 16, 2 * 5)
    for speeds in (found.training, found.generation):
        assert [len(seconds) for seconds in (speeds.model, speeds.same_parameters, speeds.same_flops)] == [3, 3, 3]
        assert speeds.tokens_per_second > 0
    assert found.conditions()["devices"] == ("cpu", torch.get_num_threads())


def test_a_ratio_is_the_median_over_rounds() -> None:
    speeds = Speeds(tokens=10, model=[1.0, 2.0, 10.0], same_parameters=[3.0, 4.0, 5.0], same_flops=[1.0, 2.0, 10.0])
    assert speeds.tokens_per_second == 5.0
    assert speeds.times_as_fast_as("same_parameters") == 2.0 and speeds.times_as_fast_as("same_flops") == 1.0
