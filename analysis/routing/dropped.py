"""What a capacity drops: measured in training mode, as evaluation drops nothing.

    dropped selections    share of the selections that do not count: beyond a capacity, or not drawn (GShard)
    dropped tokens        share of the tokens of which no selection counts: the layer gives them 0

Over all MoE layers, on batches as large as those of training, without gradients and without an optimiser's step. What
routers draw is drawn from a seed.
"""

from dataclasses import dataclass

import torch

from analysis.results import Result
from analysis.routing.text import Windows
from mhmoe.model.language_model import MHMoEForCausalLM


@dataclass(frozen=True, kw_only=True)
class Dropped(Result):
    """Shares of selections and of tokens, layer by layer, and how many tokens were read."""

    tokens: int
    selections_share: list[float]
    tokens_share: list[float]


@torch.no_grad()
def measure_dropped(model: MHMoEForCausalLM, windows: Windows, *, batch_size: int, seed: int = 0) -> Dropped | None:
    """None of a dense model. Raises ValueError where there are fewer than `batch_size` full windows.

    windows: full ones alone are read, in whole batches.
    """
    full = torch.from_numpy(windows.full.inputs)
    batches = full.split(batch_size)[: len(full) // batch_size]
    if not batches:
        raise ValueError(f"{len(full)} full windows are fewer than batch_size={batch_size}; give more text")
    device = next(model.parameters()).device
    lost: list[list[tuple[float, float]]] = []
    was_training = model.training
    model.train()
    try:
        with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type):
            torch.manual_seed(seed)
            for batch in batches:
                routing = model(batch.to(device), output_routing=True).routing
                kept = [layer.kept.flatten(2) for layer in routing]
                lost.append([(1 - float(k.double().mean()), float((~k.any(-1)).double().mean())) for k in kept])
    finally:
        model.train(was_training)
    if not lost[0]:
        return None
    selections, tokens = ([sum(b[i][j] for b in lost) / len(lost) for i in range(len(lost[0]))] for j in (0, 1))
    return Dropped(tokens=sum(b.numel() for b in batches), selections_share=selections, tokens_share=tokens)
