"""What a run draws, as functions of its seed: where each parameter starts, and what routers draw in each step."""

import hashlib
from collections.abc import Generator, Iterable
from contextlib import contextmanager

import torch
from torch import nn

from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.config import parts


def seed_parameters(model: MHMoEForCausalLM, seed: int) -> None:
    """Draw every parameter anew from the seed and its module's name: systems start from what they share."""
    seed_modules(model, seed, model.named_modules())
    model.tie_weights()


def seed_modules(model: MHMoEForCausalLM, seed: int, named: Iterable[tuple[str, nn.Module]]) -> None:
    """Some of the model's modules alone, by their names in it; tied weights stay as they are."""
    # Of the other devices' generators each would note who seeded it, a thousand times.
    reseed = torch.default_generator.manual_seed if model.device.type == "cpu" else torch.manual_seed
    with torch.random.fork_rng(devices=[]):
        for name, module in named:
            reseed(int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7]))
            model._init_weights(module)  # pyright: ignore[reportPrivateUsage]


@contextmanager
def drawing(model: MHMoEForCausalLM, seed: int, step: int, rank: int) -> Generator[None]:
    """What routers draw depends on the seed, the step and the process alone: a run goes on as if it had not stopped."""
    if not any(part.draws for part in parts(model.config)):
        yield
        return
    device = model.device
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(int.from_bytes(hashlib.sha256(f"{seed}/draws/{step}/{rank}".encode()).digest()[:7]))
        yield
