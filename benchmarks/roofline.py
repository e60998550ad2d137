"""What the machine reaches, and the time that a step needs at least.

    t >= max(FLOPs / peak, bytes / bandwidth)

peak is the best product of large matrices, in the dtype and with the threads of the measurement (report.py takes a
quicker step for it where there was one); bandwidth that of copying a large block, read and write counted. bytes are
those of the weights: read in forward and in backward, their gradients written. Activations are not counted, so this is
a lower bound.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from benchmarks.timing import seconds_of
from mhmoe.layers.grouped import _product as onednn_product

REPETITIONS = 4


@dataclass(frozen=True)
class Machine:
    """FLOP/s of torch.mm and of the oneDNN product of mhmoe.grouped, and bytes/s of a copy."""

    mm: float
    onednn: float
    bandwidth: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def measure(dtype: torch.dtype, size: int = 2048, block: int = 512 * 2**20) -> Machine:
    """Best of a few: matrices of 2 size x size and size x size; a block of so many bytes."""
    a, b = torch.randn(2 * size, size).to(dtype), torch.randn(size, size).to(dtype)
    source = torch.ones(block, dtype=torch.uint8)
    target = torch.zeros_like(source)
    flops = 2 * a.numel() * size
    return Machine(
        mm=flops / _best(lambda: a @ b.t()),
        onednn=flops / _best(lambda: onednn_product(a, b)),
        bandwidth=2 * block / _best(lambda: target.copy_(source)),
    )


def _best(step: Callable[[], object]) -> float:
    step()
    return min(seconds_of(step) for _ in range(REPETITIONS))


def weight_traffic(parameters: int, dtype_bytes: int) -> int:
    """Bytes: weights read twice, gradients written once."""
    return 3 * parameters * dtype_bytes


def least_seconds(flops: int, traffic: int, peak: float, bandwidth: float) -> float:
    return max(flops / peak, traffic / bandwidth)
