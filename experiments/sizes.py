"""Parameters and FLOPs of layers and models, from their configs: no module is built."""

from collections.abc import Callable, Sequence
from typing import Any, get_args

from analysis.render import Column, Row
from baselines.xmoe import xmoe as xmoe_config
from experiments.errata import ERRATA, experts_of
from experiments.recipes import HEADS, reference, table11_layer
from experiments.runs import model_config
from experiments.schema import FollowUp, PrintedModel, Scale, System
from mhmoe.configs import Config
from mhmoe.matching import Reading, beta, follow_up_sizes, match, with_sizes
from mhmoe.multi_head import MultiHeadConfig
from mhmoe.sparse_moe import SparseMoEConfig

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


def size_rows(systems: Sequence[System], scale: Scale) -> list[Row]:
    """One row a system; ratios are to X-MoE top-1 with the experts that the system's name promises."""
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
        if layer is not None:
            row |= _layer_row(layer, reference(here, int(system.name.split("_")[1])))
        rows.append(row)
    return rows


def _layer_row(layer: Config, base: SparseMoEConfig) -> Row:
    heads = layer.heads if isinstance(layer, MultiHeadConfig) else 1
    inner = layer.inner if isinstance(layer, MultiHeadConfig) else layer
    assert isinstance(inner, SparseMoEConfig)
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


PRINTED_COLUMNS = (
    Column("task", "task"),
    Column("label", "model"),
    *(
        Column(f"{part}_{whose}", f"{text}{', printed' if whose == 'paper' else ''}", spec)
        for part, text in (("others", "outside experts (M)"), ("experts", "in experts (M)"), ("sum", "sum (M)"))
        for whose, spec in (("ours", ",.2f"), ("paper", ",.0f"))
    ),
    Column("worst", "largest deviation (M)", "+.2f"),
    Column("expert_dim", "inner width", ","),
    Column("beta", "beta", ".3f"),
)
COST_COLUMNS = (
    Column("num_experts", "experts"),
    Column("label", "layer"),
    Column("expert_dim", "inner width", ","),
    Column("count", "experts in the layer"),
    Column("parameters", "parameters (M)", ",.1f", 1e-6),
    Column("router", "router", ",.3f", 0.5e-6),
    Column("of_experts", "experts", ",.3f", 0.5e-6),
    Column("around", "head and merge", ",.3f", 0.5e-6),
    Column("flops", "sum", ",.3f", 0.5e-6),
    Column("ratio", "to SMoE", ".3f"),
)
ERRATA_COLUMNS = (
    Column("where", "v1"),
    Column("statement", "states"),
    Column("finding", "what its numbers and ours give"),
)


def printed_rows(models: Sequence[PrintedModel], scale: Scale, printed: Callable[[Sequence[str]], Any]) -> list[Row]:
    """Ours beside the printed millions; models that the paper does not determine have no numbers of ours."""
    rows: list[Row] = []
    for model in models:
        value = printed(model.paper)
        others, experts, whole = value if isinstance(value, list) else (None, None, value)
        paper = {k: v for k, v in (("others", others), ("experts", experts), ("sum", whole)) if v is not None}
        row: Row = {"task": model.task, "label": model.label, **{f"{k}_paper": v for k, v in paper.items()}}
        if model.system is not None:
            layer = model.system.layer(scale)
            whole = model_config(scale, model.system).parameters() / 1e6
            ours: Row = {"sum": whole}
            if layer is not None:
                experts = experts_of(layer).experts
                inside = scale.model["num_hidden_layers"] // 2 * experts.parameters() / 1e6
                ours = {"others": whole - inside, "experts": inside, "sum": whole}
                row["expert_dim"] = experts.expert_dim
            if isinstance(layer, MultiHeadConfig):
                row["beta"] = beta(layer, reference(scale, experts_of(layer).experts.num_experts))
            row |= {f"{k}_ours": v for k, v in ours.items()}
            row["worst"] = max((ours[k] - paper[k] for k in paper), key=abs)
        rows.append(row)
    return rows


def cost_rows(experts: Sequence[int], scale: Scale) -> list[Row]:
    """Multiply-adds of one token in one MoE layer, by part: SMoE (X-MoE, k = 1), the control, MH-MoE."""
    rows: list[Row] = []
    for n in experts:
        base = reference(scale, n)
        layers: dict[str, Config] = {"SMoE": base, f"SMoE, k = {HEADS} (control)": reference(scale, n, HEADS)}
        layers["MH-MoE, as Table 11 implies"] = table11_layer(n)
        for reading in get_args(Reading):
            layers[f"MH-MoE, `{reading}`"] = match(reading, base, heads=HEADS)
        for label, layer in layers.items():
            heads = layer.heads if isinstance(layer, MultiHeadConfig) else 1
            moe, flops = experts_of(layer), layer.flops_per_token()
            router, chosen = (
                heads * moe.router.flops_per_token(),
                heads * moe.router.top_k * moe.experts.flops_per_token(),
            )
            rows.append(
                {
                    "num_experts": n,
                    "label": label,
                    "expert_dim": moe.experts.expert_dim,
                    "count": moe.experts.num_experts,
                    "parameters": layer.parameters(),
                    "router": router,
                    "of_experts": chosen,
                    "around": flops - router - chosen,
                    "flops": flops,
                    "ratio": flops / base.flops_per_token(),
                }
            )
    return rows


def errata_rows() -> list[Row]:
    """Every contradiction with its finding, computed now."""
    return [{"where": e.where, "statement": e.statement, "finding": e.finding()} for e in ERRATA]


def follow_up_rows(printed: Sequence[FollowUp]) -> list[Row]:
    """v2's MH-MoE runs against its SMoE (top-1 of 8, SwiGLU of inner width 2048), without routers."""
    plain = xmoe_config(FOLLOW_UP_DIM, FOLLOW_UP_EXPERTS, activation="swiglu")
    smoe = plain.replace(experts=plain.experts.replace(expert_dim=FOLLOW_UP_INNER))
    rows: list[Row] = []
    for run in printed:
        sizes = {"heads": run.heads, "top_k": run.top_k}
        layer = with_sizes(smoe, **sizes, expert_dim=run.expert_dim, num_experts=run.num_experts)
        solved = follow_up_sizes(
            dim=FOLLOW_UP_DIM, **sizes, inner_dim=FOLLOW_UP_INNER, num_experts=FOLLOW_UP_EXPERTS, matrices=3
        )
        rows.append(
            {
                "heads": run.heads,
                "printed_width": run.expert_dim,
                "solved_width": solved[0],
                "printed_experts": run.num_experts,
                "solved_experts": solved[1],
                "parameter_ratio": layer.parameters() / smoe.parameters(),
                "flop_ratio": layer.flops_per_token() / smoe.flops_per_token(),
            }
        )
    return rows
