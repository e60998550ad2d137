"""How alike the experts of a layer are (mhmoe/model/alike.py), after and before training, which is the null."""

from dataclasses import dataclass

import torch

from analysis.results import Result
from analysis.routing.text import Windows, untrained
from mhmoe.model.alike import alike
from mhmoe.model.language_model import MHMoEForCausalLM


@dataclass(frozen=True, kw_only=True)
class ExpertsAlike(Result):
    """The mean cosine of each layer that has several experts, first to last, after and before training."""

    trained: list[float]
    untrained: list[float]


def measure_alike(model: MHMoEForCausalLM, windows: Windows, seed: int) -> ExpertsAlike | None:
    """None if no layer has several experts that see the same rows. Raises ValueError where no window is full.

    windows: full ones alone are read, so that nothing is padded. seed: from which the model started.
    """
    tokens = torch.from_numpy(windows.full.inputs)
    if not len(tokens):
        raise ValueError("no window is full; give longer texts, or shorter windows")
    after = alike(model, tokens)
    return ExpertsAlike(trained=after, untrained=alike(untrained(model, seed), tokens)) if after else None
