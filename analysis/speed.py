"""How fast a model trains and generates, in turns with dense models of its own size.

    training      tokens/s of whole steps: forward, both losses, backward, optimiser
    generation    new tokens/s of greedy generation of several texts at once, with a key-value cache

The two dense models have the model's own blocks, but in place of each mixture one network: as wide as gives all of
the mixture's parameters, or its FLOPs a token. A round is one step of each, so that whatever else the machine does
slows all of them; ratios compare within rounds. Weights do not matter to speed: the dense models are not trained.
"""

import copy
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from analysis.results import Result
from mhmoe.layers.config import Config, config_from_dict
from mhmoe.layers.experts import FeedForwardConfig
from mhmoe.model.config import MHMoEConfig
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.config import TrainingConfig
from mhmoe.training.loop import make_optimizer
from mhmoe.training.objective import Objective, accumulate_gradients


@dataclass(frozen=True, kw_only=True)
class Speeds(Result):
    """Seconds of every round, and the tokens of one: of the model, and of Dense with its parameters and its FLOPs.

    Of a dense model all three are of itself.
    """

    tokens: int
    model: list[float]
    same_parameters: list[float]
    same_flops: list[float]

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / statistics.median(self.model)

    def times_as_fast_as(self, other: str) -> float:
        """Median over rounds of the other's seconds over the model's."""
        return statistics.median(b / a for a, b in zip(self.model, getattr(self, other), strict=True))


@dataclass(frozen=True, kw_only=True)
class Speed(Result):
    """device, threads: of the machine, which speeds of two models must share to be compared."""

    training: Speeds
    generation: Speeds
    device: str
    threads: int

    def conditions(self) -> dict[str, object]:
        return {**super().conditions(), "devices": (self.device, self.threads)}


def measure_speed(
    model: MHMoEForCausalLM,
    tokens: Int[Tensor, "sequences length_plus_1"],
    *,
    precision: str,
    rounds: int,
    prompt: int,
    new_tokens: int,
    texts: int,
) -> Speed:
    """tokens: of one training step, its first `texts` the beginnings of what is generated, `prompt` tokens of each."""
    models = {"model": model, **{name: _built(config, model) for name, config in dense_peers(model.config).items()}}
    batch = tokens.to(next(model.parameters()).device)
    beginning = batch[:texts, :prompt]

    def generation(of: MHMoEForCausalLM) -> Callable[[], object]:
        of.eval()
        whole = {"min_new_tokens": new_tokens, "max_new_tokens": new_tokens, "do_sample": False}
        seen = torch.ones_like(beginning)
        return lambda: of.generate(beginning, attention_mask=seen, pad_token_id=0, **whole)

    generated = _in_turns({name: generation(of) for name, of in models.items()}, rounds)
    trained = _in_turns({name: _step(of, batch, precision) for name, of in models.items()}, rounds)
    device = batch.device
    return Speed(
        training=_speeds(batch[:, 1:].numel(), trained),
        generation=_speeds(len(beginning) * new_tokens, generated),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
    )


def _speeds(tokens: int, seconds: Mapping[str, list[float]]) -> Speeds:
    model, same_parameters, same_flops = (seconds[name] for name in ("model", "same_parameters", "same_flops"))
    return Speeds(tokens=tokens, model=model, same_parameters=same_parameters, same_flops=same_flops)


def dense_peers(config: MHMoEConfig) -> dict[str, MHMoEConfig]:
    """Dense models of a model's parameters and of its FLOPs; as near as a whole inner width allows."""
    peers: dict[str, MHMoEConfig] = {}
    for name, count in (("same_parameters", "parameters"), ("same_flops", "flops_per_token")):
        peer = copy.deepcopy(config)
        if config.moe is not None:
            peer.moe = _as_wide(config_from_dict(config.moe), count, config_from_dict(config.feed_forward)).to_dict()
        peers[name] = peer
    return peers


def _as_wide(moe: Config, count: str, like: Config) -> FeedForwardConfig:
    """A network with the mixture's parameters or FLOPs, otherwise like those of the other blocks."""
    networks = [part for part in like.parts() if isinstance(part, FeedForwardConfig)]
    dim: Any = getattr(moe, "dim", None)
    base = networks[0] if networks else FeedForwardConfig(dim=dim, inner_dim=1)
    one, two = (getattr(base.replace(inner_dim=width), count)() for width in (1, 2))
    return base.replace(inner_dim=max(round(1 + (getattr(moe, count)() - one) / (two - one)), 1))


def _built(config: MHMoEConfig, like: MHMoEForCausalLM) -> MHMoEForCausalLM:
    return MHMoEForCausalLM(config).to(next(like.parameters()).device)  # pyright: ignore[reportArgumentType]


def _step(model: MHMoEForCausalLM, tokens: Tensor, precision: str) -> Callable[[], object]:
    """A whole training step, at a rate that changes nothing to speak of."""
    sequences, length = tokens.shape
    settings: dict[str, Any] = {"precision": precision, "learning_rate": 1e-9, "steps": 1}
    config = TrainingConfig(**settings, batch_sequences=sequences, length=length - 1)
    objective, optimizer = Objective(model.train(), precision), make_optimizer(model, config)

    def step() -> None:
        model.train()
        accumulate_gradients(objective, tokens, config, model.config.balance_weight)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _in_turns(steps: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every step in every round, after a round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for counted in (False, *[True] * rounds):
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            if torch.cuda.is_initialized():  # which goes on while Python does
                torch.cuda.synchronize()
            if counted:
                seconds[name].append(round(time.perf_counter() - begun, 6))
    return seconds
