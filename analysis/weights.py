"""Which weights a model has: a hash that any change of any number changes, and their norm, which tells a rounding from
another model."""

import hashlib
import math
from dataclasses import dataclass

import torch

from analysis.results import Result
from mhmoe.model.language_model import MHMoEForCausalLM


@dataclass(frozen=True, kw_only=True)
class Weights(Result):
    """sha256: of all parameters and buffers in the order of their names: each name, type, shape and bytes. norm: of all
    of them together; a matrix of two names, such as embeddings that are the output layer, counts twice."""

    sha256: str
    norm: float


def measure_weights(model: MHMoEForCausalLM) -> Weights:
    digest, squares = hashlib.sha256(), 0.0
    for name, value in sorted(model.state_dict().items()):
        cpu = value.detach().cpu().contiguous()
        digest.update(f"{name} {cpu.dtype} {tuple(cpu.shape)}\n".encode())
        digest.update(cpu.reshape(-1).view(torch.uint8).numpy().tobytes())
        squares += float(cpu.double().square().sum())
    return Weights(sha256=digest.hexdigest(), norm=math.sqrt(squares))
