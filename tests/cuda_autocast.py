"""The rules of CUDA's autocast, which differ from those of the CPU's, for tests on a CPU that take a card's path."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

WIDENED = {"cumsum", "exp", "layer_norm", "log_softmax", "norm", "pow", "prod", "rms_norm", "softmax", "sum"}
"""In float32 (torch 2.13, docs "CUDA Ops that can autocast to float32"), of those that the layers use."""
UNLESS_TOLD = {"cumsum", "log_softmax", "prod", "softmax", "sum"}
"""Not where the call names a dtype."""


class CudaAutocast(TorchFunctionMode):
    """Widens as a card would, within torch.autocast("cpu", torch.bfloat16)."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, told = getattr(func, "__name__", ""), kwargs or {}
        wide = name in WIDENED and not (name in UNLESS_TOLD and told.get("dtype"))
        if wide and torch.is_autocast_enabled("cpu"):
            args = tuple(_widened(value) for value in args)
        return func(*args, **told)


def _widened(value: Any) -> Any:
    narrow = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if narrow else value
