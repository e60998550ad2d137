"""A page of parameters and FLOPs at some scales, from the configs alone: nothing is run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.tables import Column, Row, table_markdown
from baselines.xmoe import xmoe as xmoe_config
from experiments.layers import reference
from experiments.paper import paper_number
from experiments.report.errata import experts_of
from experiments.runner.page import Page, Section, unique
from experiments.runner.runs import model_config
from experiments.runner.store import Records
from experiments.scales import SCALES, Scale
from experiments.system import System
from mhmoe.layers.config import Config
from mhmoe.layers.matching import beta, follow_up_sizes, with_sizes
from mhmoe.layers.multi_head import MultiHeadConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig

SIZE_COLUMNS = (
    Column("label", "system"),
    Column("subtoken", "sub-token width"),
    Column("expert_dim", "inner width", ","),
    Column("num_experts", "experts"),
    Column("beta", "inner width / 4hd", ".3f"),
    Column("layer_parameters", "layer parameters (M)", ",.3f", 1e-6),
    Column("parameter_ratio", "to X-MoE", ".3f"),
    Column("layer_flops", "layer kFLOPs a token", ",.1f", 1e-3),
    Column("flop_ratio", "to X-MoE", ".3f"),
    Column("router_share", "router's share", ".1f", 100, "%"),
    Column("parameters", "model parameters (M)", ",.2f", 1e-6),
    Column("active", "active (M)", ",.2f", 1e-6),
    Column("flops", "model MFLOPs a token", ",.2f", 1e-6),
)
FOLLOW_UP_TITLE = "v2's runs: as printed, and as its equal-size equations solve with SwiGLU's three matrices"
FOLLOW_UP_COLUMNS = (
    Column("heads", "h = k"),
    Column("printed_width", "inner width, printed", ","),
    Column("solved_width", "solved", ",.1f"),
    Column("printed_experts", "experts, printed"),
    Column("solved_experts", "solved", ".2f"),
    Column("parameter_ratio", "parameters as printed, to SMoE", ".3f"),
    Column("flop_ratio", "FLOPs as printed, to SMoE", ".3f"),
)
FOLLOW_UP_DIM, FOLLOW_UP_INNER, FOLLOW_UP_EXPERTS = 768, 2048, 8  # v2's SMoE: SwiGLU, top-1 of 8


@dataclass(frozen=True, kw_only=True)
class Sizes(Page):
    """at: names of the scales, whatever others are rendered. follow_up: numbers of heads of v2's runs, which are shown
    at the paper scale."""

    trains = False
    systems: Sequence[System]
    at: Sequence[str]
    follow_up: Sequence[int] = ()

    def all_systems(self) -> list[System]:
        return unique(self.systems)

    def scales(self, rendered: Sequence[Scale]) -> Sequence[Scale]:
        return [scale for scale in SCALES.values() if scale.name in self.at]

    def section(self, scale: Scale, records: Records, folder: Path) -> Section | None:
        rows = size_rows(self.systems, scale)
        page = table_markdown(SIZE_COLUMNS, rows)
        if scale is SCALES["paper"] and self.follow_up:
            page += f"\n### {FOLLOW_UP_TITLE}\n\n" + table_markdown(FOLLOW_UP_COLUMNS, follow_up_rows(self.follow_up))
        return Section(page, SIZE_COLUMNS, rows)


def size_rows(systems: Sequence[System], scale: Scale) -> list[Row]:
    """One row a system; ratios are to the X-MoE top-1 whose size it has."""
    rows: list[Row] = []
    for system in systems:
        here = system.at(scale)
        layer, model = system.layer(here), model_config(scale, system)
        row: Row = {
            "label": system.label,
            "parameters": model.parameters(),
            "active": model.active_parameters(),
            "flops": model.flops_per_token(),
        }
        if layer is not None and system.num_experts is not None:
            row |= _layer_row(layer, reference(here, system.num_experts))
        rows.append(row)
    return rows


def _layer_row(layer: Config, base: SparseMoEConfig) -> Row:
    heads = layer.heads if isinstance(layer, MultiHeadConfig) else 1
    inner = experts_of(layer)
    return {
        "subtoken": inner.dim,
        "expert_dim": inner.experts.expert_dim,
        "num_experts": inner.experts.num_experts,
        "beta": beta(layer, base) if isinstance(layer, MultiHeadConfig) else None,
        "layer_parameters": layer.parameters(),
        "parameter_ratio": layer.parameters() / base.parameters(),
        "layer_flops": layer.flops_per_token(),
        "flop_ratio": layer.flops_per_token() / base.flops_per_token(),
        "router_share": heads * inner.router.flops_per_token() / layer.flops_per_token(),
    }


def follow_up_rows(heads: Sequence[int]) -> list[Row]:
    """v2's MH-MoE with so many heads, as printed, against its SMoE (top-1 of 8, SwiGLU of inner width 2048)."""
    smoe = xmoe_config(FOLLOW_UP_DIM, FOLLOW_UP_EXPERTS, expert_dim=FOLLOW_UP_INNER, activation="swiglu")
    rows: list[Row] = []
    for h in heads:
        printed = paper_number(("v2_mhmoe_sizes", str(h)))
        sizes = {"heads": h, "top_k": printed["top_k"]}
        layer = with_sizes(smoe, heads=h, **printed)
        solved = follow_up_sizes(
            dim=FOLLOW_UP_DIM, **sizes, inner_dim=FOLLOW_UP_INNER, num_experts=FOLLOW_UP_EXPERTS, matrices=3
        )
        rows.append(
            {
                "heads": h,
                "printed_width": printed["expert_dim"],
                "solved_width": solved[0],
                "printed_experts": printed["num_experts"],
                "solved_experts": solved[1],
                "parameter_ratio": layer.parameters() / smoe.parameters(),
                "flop_ratio": layer.flops_per_token() / smoe.flops_per_token(),
            }
        )
    return rows
