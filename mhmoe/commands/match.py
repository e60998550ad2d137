"""`match`: the sizes that an MH-MoE layer has under each reading of "the same size as X-MoE" (layers/matching.py)."""

from dataclasses import dataclass
from typing import Any

from mhmoe.commands.options import Whole
from mhmoe.commands.systems import MATCHING_NAMES, Sizes, mhmoe, xmoe
from mhmoe.layers.config import LayerConfig
from mhmoe.layers.matching import MATCHINGS, NoWidthError
from mhmoe.layers.multi_head import MultiHeadConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig


@dataclass(frozen=True, kw_only=True)
class Match:
    """Print the sizes of MH-MoE: as printed, at equal parameters, at equal FLOPs.

    Attributes:
        dim: width of the model.
        heads: of MH-MoE.
        experts: of the X-MoE whose size it has.
        expert_dim: inner width of an expert of that; 4 times dim.
        top_k: experts that a sub-token chooses; that X-MoE's tokens choose one.
        multiple_of: inner widths are multiples of it.
    """

    dim: int = 768
    heads: int = 4
    experts: int = 8
    expert_dim: Whole = None
    top_k: int = 1
    multiple_of: int = 1


def match(command: Match) -> str:
    """The table. Raises ValueError for sizes that do not fit together."""
    options: dict[str, Any] = {
        "dim": command.dim,
        "heads": command.heads,
        "experts": command.experts,
        "expert_dim": command.expert_dim,
        "multiple_of": command.multiple_of,
    }
    rows = [_row("X-MoE, the reference", xmoe(Sizes(**options, top_k=1)))]
    for matching, reading in MATCHING_NAMES.items():
        name = f"MH-MoE, {MATCHINGS[reading]}"
        try:
            rows.append(_row(name, mhmoe(Sizes(**options, top_k=command.top_k, matching=matching))))
        except NoWidthError:
            rows.append([name, "none: head and merge layer alone are larger"])
    titles = ["", "experts", "inner width", "parameters", "active", "FLOPs a token"]
    widths = [max(len(row[i]) for row in [titles, *rows] if len(row) == len(titles)) for i in range(len(titles))]
    lines = [f"{row[0]:{max(len(r[0]) for r in rows)}}  " + _cells(row[1:], widths[1:]) for row in [titles, *rows]]
    return "\n".join(line.rstrip() for line in lines)


def _cells(cells: list[str], widths: list[int]) -> str:
    return "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=False))


def _row(name: str, layer: LayerConfig) -> list[str]:
    mixture = layer.inner if isinstance(layer, MultiHeadConfig) else layer
    assert isinstance(mixture, SparseMoEConfig)
    counts = (layer.parameters(), layer.active_parameters(), layer.flops_per_token())
    sizes = (mixture.experts.num_experts, mixture.experts.expert_dim, *counts)
    return [name, *(f"{size:,}" for size in sizes)]
