"""Training on a CUDA card: a step that is recorded once and replayed is the step taken one by one."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from mhmoe.layers.config import LayerConfig
from mhmoe.layers.experts import ExpertsConfig, FeedForwardConfig
from mhmoe.layers.gshard_router import GShardRouterConfig
from mhmoe.layers.hierarchical import HierarchicalMoEConfig
from mhmoe.layers.multi_head import multi_head_moe
from mhmoe.layers.routers import DotProductRouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig
from mhmoe.model.config import MHMoEConfig
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.config import Sharding, TrainingConfig
from mhmoe.training.objective import Objective, rebalance
from mhmoe.training.optimizer import make_optimizer
from mhmoe.training.replay import Gradients
from mhmoe.training.seeding import seed_parameters
from mhmoe.training.sharding import clip_gradients, shard

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card; `make check-gpu` runs this on one"),
]
STEPS = 6
EXPERTS = ExpertsConfig(dim=64, num_experts=4, expert_dim=32)
LAYERS: dict[str, LayerConfig] = {
    "dense": FeedForwardConfig(dim=64, inner_dim=128),
    "multi-head": multi_head_moe(dim=64, num_experts=6, expert_dim=32, moe_heads=4, top_k=2),
    "with a capacity": multi_head_moe(dim=64, num_experts=6, expert_dim=32, moe_heads=4, capacity_factor=1.0),
    "drawing": SparseMoEConfig(router=GShardRouterConfig(dim=64, num_experts=4, top_k=2), experts=EXPERTS),
    "hierarchical": HierarchicalMoEConfig(
        router=DotProductRouterConfig(dim=64, num_experts=2, top_k=1),
        inner=SparseMoEConfig(router=DotProductRouterConfig(dim=64, num_experts=4, top_k=2), experts=EXPERTS),
    ),
}
RECORDED = {"dense", "multi-head", "with a capacity"}


def losses_of(model: MHMoEForCausalLM, tokens: Tensor, recorded: bool) -> tuple[list[float], Gradients]:
    config = TrainingConfig(steps=STEPS, batch_sequences=8, length=32, learning_rate=1e-2, precision="bfloat16")
    objective, optimizer = Objective(model, config.precision), make_optimizer(model, config)
    gradients, losses = Gradients(objective, config, balance_weight=0.01), list[float]()
    gradients.records &= recorded
    for step in range(STEPS):
        torch.manual_seed(step)
        found = gradients(tokens[step])
        clip_gradients(model, config.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        rebalance(model, found.loads)
        losses += [found.nll, found.balance]
    return losses, gradients


def config_of(name: str) -> MHMoEConfig:
    return MHMoEConfig(
        vocab_size=97,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        feed_forward=FeedForwardConfig(dim=64, inner_dim=128).to_dict(),
        moe=None if name == "dense" else LAYERS[name].to_dict(),
    )


@pytest.mark.parametrize("name", LAYERS)
def test_a_replayed_step_is_the_step_taken_one_by_one(name: str) -> None:
    torch.manual_seed(0)
    config = config_of(name)
    tokens = torch.randint(0, 97, (STEPS, 8, 33), device="cuda")
    here = MHMoEForCausalLM(config).to("cuda")  # pyright: ignore[reportArgumentType]  # as in the runner
    there = copy.deepcopy(here)
    expected, _ = losses_of(here, tokens, recorded=False)
    found, gradients = losses_of(there, tokens, recorded=True)
    assert (gradients.recording is not None) == (name in RECORDED)
    assert found == pytest.approx(expected, rel=2e-3)
    for ours, theirs in zip(there.parameters(), here.parameters(), strict=True):
        assert (ours - theirs).norm() <= 2e-2 * theirs.norm().clamp(min=1.0)


def test_a_model_made_in_parts_on_the_card_starts_as_one_that_one_process_draws(tmp_path: Path) -> None:
    expected = MHMoEForCausalLM(config_of("multi-head"))
    seed_parameters(expected, 3)
    dist.init_process_group("nccl", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        with torch.device("meta"):
            made = MHMoEForCausalLM(config_of("multi-head"))
        shard(made, Sharding(), seed=3)
        found = {name: p.full_tensor() for name, p in made.named_parameters() if isinstance(p, DTensor)}
    finally:
        dist.destroy_process_group()
    for name, parameter in expected.named_parameters():
        assert found[name].is_cuda and torch.equal(found[name].cpu(), parameter), name
