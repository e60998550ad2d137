"""Folders that earlier versions saved load as they are: how their weights become today's."""

from typing import Any

import torch
from torch import Tensor
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter

TEMPERATURE = "log_inverse_temperature"


class _WithAnAxis(ConversionOps):
    """A number without an axis becomes a list of one: FSDP shards nothing else. Saved is what is loaded."""

    def convert(self, input_dict: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        return {name: _with_an_axis(value) for name, value in input_dict.items()}

    @property
    def reverse_op(self) -> ConversionOps:
        return self


def _with_an_axis(value: Any) -> Tensor:
    tensor = value[0] if isinstance(value, list) else value
    return torch.atleast_1d(tensor)


def register() -> None:
    """For every model whose `model_type` is ours."""
    converter = WeightConverter(TEMPERATURE, TEMPERATURE, [_WithAnAxis()])
    register_checkpoint_conversion_mapping("mhmoe", [converter], overwrite=True)
