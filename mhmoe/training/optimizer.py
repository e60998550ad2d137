"""AdamW with a group of parameters for each weight decay and each multiple of the learning rate.

Of a sharded model also for each mesh on which parameters lie: torch steps those of one mesh together.
"""

import math
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.config import TrainingConfig


def make_optimizer(model: MHMoEForCausalLM, config: TrainingConfig) -> torch.optim.AdamW:
    """Matrices with weight decay, all else without; a group for each `lr_multiplier` of the learning rate."""
    groups = dict[tuple[float, float, DeviceMesh | None], list[nn.Parameter]]()
    names = {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # The experts' biases and norms are stacked, so the number of axes alone does not tell.
            is_matrix = parameter.ndim >= 2 and not name.endswith("bias") and "norm." not in name
            decay = config.weight_decay if is_matrix else 0.0
            grows = is_matrix and not _has_fixed_input(name, names)
            factor = _lr_multiplier(name, parameter, model.config.hidden_size, config) if grows else 1.0
            factor *= math.prod(times for part, times in config.lr_multipliers if part in name.split("."))
            mesh = parameter.device_mesh if isinstance(parameter, DTensor) else None
            groups.setdefault((decay, factor, mesh), []).append(parameter)
    described = [{"params": p, "weight_decay": decay, "lr_multiplier": f} for (decay, f, _), p in groups.items()]
    return torch.optim.AdamW(described, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True)


def _lr_multiplier(name: str, matrix: Tensor, dim: int, config: TrainingConfig) -> float:
    """By muP, of a matrix whose input grows with the model's width."""
    factor = config.base_width / dim if config.base_width else 1.0
    for part, width in (("up_proj", dim), ("down_proj", 4 * dim)):
        if part in config.mup_scaled and part in name.split("."):
            factor *= width / matrix.shape[-1]
    return factor


def _has_fixed_input(name: str, names: Collection[str]) -> bool:
    """Token embeddings, and those of experts in X-MoE's low-dimensional space, which a projection leads to."""
    projection = name.replace("expert_embeddings", "projection")
    return "embed_tokens" in name or (projection != name and projection in names)
