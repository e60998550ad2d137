"""One model on several processes: FSDP2, expert parallelism and Head Parallel on a device mesh.

    processes = data x expert, those of one row of `expert` follow each other; each trains on its own part of the batch

    experts, heads with routers of their own    cut along `expert` by number; along `data` each matrix by rows
    all else                                    cut along all processes, block by block

"cut along" is FSDP2's `fully_shard`: a block's parameters are gathered when it runs, and its gradients are added up
where each part lies. With parameters="replicated" every process keeps all that it uses, and gradients alone are added
up. Parameters keep their names and become DTensors of the whole shape.

A model on the meta device is made here, block by block: a process holds its parts and one whole block at a time. What
each parameter starts as depends on the seed and its module's name alone, as on one process (`seed_parameters`).
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from mhmoe.io import UserError
from mhmoe.layers.expert_parallel import ExpertParallel, OwnExperts
from mhmoe.layers.experts import Experts
from mhmoe.layers.head_parallel import HeadParallel, OwnHeads
from mhmoe.layers.hierarchical import HierarchicalMoE
from mhmoe.layers.per_head import PerHeadRouter
from mhmoe.layers.routing import Router
from mhmoe.layers.sparse_moe import SparseMoE
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.model.transformer import Block
from mhmoe.training.config import Sharding, TrainingConfig
from mhmoe.training.seeding import seed_modules

BLOCKS = "model.layers"


class _Meshes(NamedTuple):
    """everyone: for what all processes have. data: for what those of one place along `expert` have."""

    everyone: DeviceMesh
    data: DeviceMesh
    expert: DeviceMesh


def shard(model: MHMoEForCausalLM, sharding: Sharding, seed: int, device: torch.device | None = None) -> None:
    """Lay `model`, which is the same in all processes, out among them; they call this together.

    A model on the meta device is made from the seed, for `device` (this process's GPU under NCCL, else the CPU); any
    other keeps its numbers and its device. Raises UserError where processes, experts or heads do not divide, before
    anything is changed.
    """
    parameter = next(model.parameters())
    made = parameter.is_meta
    device = device or (_own_device() if made else parameter.device)
    check_layout(model, sharding, dist.get_world_size())
    meshes = _meshes(sharding, device.type)
    for number, block in enumerate(model.model.layers):
        assert isinstance(block, Block)
        if made:
            block.to_empty(device="cpu")  # drawn there, as on one process: a card's generator gives other numbers
            seed_modules(model, seed, block.named_modules(prefix=f"{BLOCKS}.{number}"))
            block.to(device)
        if sharding.expert_parallel > 1:
            _share_out(block, sharding, meshes.expert)
        _cut(block, sharding, meshes, device)
    if made:
        rest = [(name, part) for name, part in model.named_modules() if not name.startswith(f"{BLOCKS}.")]
        for _, module in rest:
            if any(own.is_meta for own in module.parameters(recurse=False)):
                module.to_empty(device="cpu", recurse=False)
        seed_modules(model, seed, rest)
        model.tie_weights()  # `fully_shard` moves these to the device
    if sharding.recompute:
        enable = "activation_checkpointing_enable"  # since transformers 5.23; before, as its fallback
        getattr(model, enable, model.gradient_checkpointing_enable)({"use_reentrant": False})
    fully_shard(model, mesh=meshes.everyone)


def _own_device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def check_trainable(sharding: Sharding, config: TrainingConfig) -> None:
    """Raises UserError where the two do not fit together."""
    if config.compile:
        raise UserError("compile=True does not work with a sharded model; set one of both aside")
    if sharding.gather_in == "bfloat16" and config.precision != "bfloat16":
        raise UserError(
            f"gather_in='bfloat16' with precision={config.precision!r} would lose digits; give both the same"
        )


def check_layout(model: MHMoEForCausalLM, sharding: Sharding, world: int) -> None:
    """Raises UserError where `world` processes cannot share the model out so; it may be on the meta device."""
    count = sharding.expert_parallel
    if world % count:
        raise UserError(f"expert_parallel={count} does not divide the {world} processes; choose one that does")
    if count > 1 and sharding.by_heads and any(_routes_to_heads(part) for part in model.modules()):
        raise UserError(
            "heads within a hierarchical mixture get as many tokens as each process routes to them, and Head Parallel "
            "needs as many everywhere; give Sharding(by_heads=False), in Python"
        )
    in_mixtures = {id(part.experts) for part in _mixtures(model)}
    if sharding.offload_experts and (
        others := [part for part in model.modules() if isinstance(part, Experts) and id(part) not in in_mixtures]
    ):
        raise UserError(
            f"offload_experts is for sparse mixtures, and experts of {len(others)} layers here are of another kind, "
            "which would stay where they are; set it aside"
        )
    for mixture in _mixtures(model) if count > 1 else ():
        name, number = "num_experts", mixture.experts.num_experts
        if sharding.by_heads and isinstance(mixture.router, PerHeadRouter):
            name, number = "heads", len(mixture.router.routers)
        if number % count:
            instead = ", or Sharding(by_heads=False), in Python" if name == "heads" else ""
            raise UserError(f"expert_parallel={count} does not divide {name}={number}; choose one that does{instead}")
        copies = world // count if sharding.parameters == "sharded" else 1
        for name, parameter in mixture.experts.named_parameters():
            if parameter.shape[1] % copies:
                raise UserError(
                    f"{world} processes with expert_parallel={count} would cut the second axis of the experts' {name}, "
                    f"{parameter.shape[1]} long, in {copies} parts that are not even; choose numbers that divide, "
                    "or Sharding(parameters='replicated'), in Python"
                )


def _routes_to_heads(part: nn.Module) -> bool:
    return isinstance(part, HierarchicalMoE) and any(isinstance(inside, PerHeadRouter) for inside in part.modules())


def evaluating(sharding: Sharding | None, device: torch.device) -> torch.autocast:
    """In what evaluation computes: the parameters' own type, or that in which they are gathered."""
    low = sharding is not None and sharding.gather_in == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=low)


def clip_gradients(model: nn.Module, max_norm: float) -> Tensor:
    """As `clip_grad_norm_`, and so for parameters on several meshes, of which each process has a part."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    sharded = [gradient for gradient in gradients if isinstance(gradient, DTensor)]
    if not sharded:
        return nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    own = dict[int, list[Tensor]]()
    for gradient in sharded:
        sizes = zip(gradient.device_mesh.shape, gradient.placements, strict=True)
        copies = math.prod(size for size, placement in sizes if placement.is_replicate())
        own.setdefault(copies, []).append(gradient.to_local())
    device = next(model.parameters()).device
    squares = [nn.utils.get_total_norm(parts).to(device).square() / copies for copies, parts in own.items()]
    total = torch.stack(squares).sum()
    dist.all_reduce(total)
    norm = total.sqrt()
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for parts in own.values():
        for part in parts:
            part.mul_(factor.to(part.device))
    return norm


def _mixtures(module: nn.Module) -> list[SparseMoE]:
    """Whose experts are shared out; those of other layers are sharded as all else is."""
    return [part for part in module.modules() if isinstance(part, SparseMoE)]


def _meshes(sharding: Sharding, device_type: str) -> _Meshes:
    world, count = dist.get_world_size(), sharding.expert_parallel
    if sharding.parameters == "sharded":
        everyone = init_device_mesh(device_type, (world,), mesh_dim_names=("processes",))
        grid = init_device_mesh(device_type, (world // count, count), mesh_dim_names=("data", "expert"))
        return _Meshes(everyone, grid["data"], grid["expert"])
    everyone = init_device_mesh(device_type, (world, 1), mesh_dim_names=("copies", "whole"))
    grid = init_device_mesh(device_type, (world // count, 1, count), mesh_dim_names=("copies", "whole", "expert"))
    return _Meshes(everyone, grid["copies", "whole"], grid["expert"])


def _share_out(block: Block, sharding: Sharding, mesh: DeviceMesh) -> None:
    """Each process keeps its own experts or heads."""
    for parent in list(block.modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(child, SparseMoE):
                continue
            if sharding.by_heads and isinstance(child.router, PerHeadRouter):
                setattr(parent, name, HeadParallel(child, mesh))
            else:
                child.add_module("experts", ExpertParallel(child.experts, mesh))


def _cut(block: Block, sharding: Sharding, meshes: _Meshes, device: torch.device) -> None:
    offload = OffloadPolicy()
    if sharding.offload_experts:
        offload = CPUOffloadPolicy(pin_memory=device.type == "cuda")
    low = MixedPrecisionPolicy()
    if sharding.gather_in == "bfloat16":
        low = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        exact = [block.attention_norm, block.feed_forward_norm, *_shared_routers(block)]
        fully_shard(exact, mesh=meshes.everyone)
    for mixture in _mixtures(block):
        if isinstance(mixture.router, OwnHeads):
            fully_shard(mixture.router, mesh=meshes.data)
        experts = mixture.get_submodule("experts")
        if isinstance(experts, OwnExperts):
            fully_shard(experts, mesh=meshes.data, shard_placement_fn=_by_row, mp_policy=low, offload_policy=offload)
        elif sharding.offload_experts and isinstance(experts, Experts):
            fully_shard(experts, mesh=meshes.everyone, mp_policy=low, offload_policy=offload)
    fully_shard(block, mesh=meshes.everyone, mp_policy=low)


def _by_row(parameter: nn.Parameter) -> Shard:
    """The second axis, as the first is cut by expert."""
    return Shard(1)


def _shared_routers(module: nn.Module) -> Iterator[Router]:
    """The outermost routers that all processes have, where they have parameters."""
    for child in module.children():
        if isinstance(child, Router):
            if not isinstance(child, OwnHeads) and any(True for _ in child.parameters()):
                yield child
        else:
            yield from _shared_routers(child)
