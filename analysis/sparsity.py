"""How many of a dense feed-forward network's inner numbers a token makes use of.

    zero        share of inner numbers that are exactly 0                                (ReLU's; no GELU has any)
    small       share whose size is below a tenth of their root mean square in the token
    holding_90  share of the largest that together hold 90% of the squares, mean over tokens

of the numbers between activation and down matrix, by block, over all tokens of a text. The last two need no exact 0 and
do not depend on the scale. Introductions say that a trained dense network uses few of its neurons, so that a mixture
loses little by computing few; Li et al. 2022 (arXiv 2210.06313, "The Lazy Neuron Phenomenon") measured it for ReLU. At
the start of training half are 0 by symmetry, so the untrained model stands beside.

A copy of the model counts while it reads; the model itself has no hooks and remembers nothing.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from analysis.results import Result
from analysis.routing.text import Windows
from mhmoe.layers.experts import FeedForward
from mhmoe.model.language_model import MHMoEForCausalLM

SMALL = 0.1
HELD = 0.9


@dataclass(frozen=True, kw_only=True)
class Sparsity:
    """By block of those that have a dense network, in their order."""

    zero: list[float]
    small: list[float]
    holding_90: list[float]


@dataclass(frozen=True, kw_only=True)
class ActivationSparsity(Result):
    """Of a model, and of the one that it started from."""

    tokens: int
    trained: Sparsity
    untrained: Sparsity


def measures(inner: Tensor) -> Tensor:
    """zero, small, holding_90 of every row [rows, inner], as [rows, 3]."""
    wide = inner.double()
    zero = (wide == 0).double().mean(-1)
    squares = wide.square()
    small = (squares < SMALL**2 * squares.mean(-1, keepdim=True)).double().mean(-1)
    held = squares.sort(dim=-1, descending=True).values.cumsum(-1)
    holding = (held < HELD * held[..., -1:]).sum(-1) + (held[..., -1] > 0)
    return torch.stack([zero, small, holding / inner.shape[-1]], dim=-1)


class Counting(nn.Module):
    """An activation that adds up the measures of what it gives, over the tokens of `counted`."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation, self.total, self.counted = activation, torch.zeros(3, dtype=torch.float64), torch.ones(0)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.activation(x)
        self.total += measures(inner[self.counted]).sum(0).cpu()
        return inner


def measure_sparsity(model: MHMoEForCausalLM, windows: Windows, *, batch_size: int = 16) -> tuple[int, Sparsity]:
    """How many tokens were read, and the means over them. Raises ValueError if no block has a dense network."""
    reader = copy.deepcopy(model).eval()
    counting: list[Counting] = []
    for block in reader.model.layers:
        if isinstance(network := block.feed_forward, FeedForward):
            network.activation = Counting(network.activation)
            counting.append(network.activation)
    if not counting:
        raise ValueError("the model has no dense feed-forward network; give one in which some block has one")
    device, tokens = next(reader.parameters()).device, 0
    for start in range(0, len(windows.inputs), batch_size):
        part = slice(start, start + batch_size)
        inputs, read = (torch.from_numpy(a[part]).to(device) for a in (windows.inputs, windows.read))
        for one in counting:
            one.counted = read
        with torch.no_grad():
            reader(inputs, attention_mask=read.long(), logits_to_keep=1)
        tokens += int(read.sum())
    means = torch.stack([one.total for one in counting]).T / max(tokens, 1)
    zero, small, holding = means.tolist()
    return tokens, Sparsity(zero=zero, small=small, holding_90=holding)
