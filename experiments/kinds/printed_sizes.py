"""The paper's table of parameters beside our counts, what a layer costs, and the errata: nothing is run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from analysis.tables import Column, Row, table_markdown
from experiments.layers import HEADS, reference, table11_layer
from experiments.paper import paper_number
from experiments.report.errata import ERRATA, experts_of
from experiments.runner.page import Page, Section, unique
from experiments.runner.runs import model_config
from experiments.runner.store import Records
from experiments.scales import PAPER, Scale
from experiments.system import System
from mhmoe.layers.config import Config
from mhmoe.layers.matching import Matching, beta, match
from mhmoe.layers.multi_head import MultiHeadConfig

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


@dataclass(frozen=True, kw_only=True)
class PrintedModel:
    """A model whose parameters the paper prints; `system` is None where the paper does not determine it."""

    task: str
    label: str
    system: System | None
    paper: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PrintedSizes(Page):
    """experts: numbers of them for which a layer's cost is counted under each matching."""

    trains = False
    models: Sequence[PrintedModel]
    experts: Sequence[int]

    def all_systems(self) -> list[System]:
        return unique([model.system for model in self.models if model.system is not None])

    def scales(self, rendered: Sequence[Scale]) -> Sequence[Scale]:
        return [PAPER]

    def section(self, scale: Scale, records: Records, folder: Path) -> Section | None:
        rows = printed_rows(self.models, scale)
        printed = table_markdown(
            PRINTED_COLUMNS, rows, caption=["Millions of parameters; a dash where the paper gives no model."]
        )
        cost = table_markdown(
            COST_COLUMNS,
            cost_rows(self.experts, scale),
            caption=["Millions of multiply-adds of the forward pass, by part; parameters are the layer's."],
        )
        errata: list[Row] = [{"where": e.where, "statement": e.statement, "finding": e.finding()} for e in ERRATA]
        page = (
            f"{printed}\n### Appendix D: what a token costs in one MoE layer\n\n{cost}"
            f"\n### Errata: where v1 contradicts itself\n\n{table_markdown(ERRATA_COLUMNS, errata)}"
        )
        return Section(page, PRINTED_COLUMNS, rows)


def printed_rows(models: Sequence[PrintedModel], scale: Scale) -> list[Row]:
    """Ours beside the printed millions; models that the paper does not determine have no numbers of ours."""
    rows: list[Row] = []
    for model in models:
        value = paper_number(model.paper)
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
        for matching in get_args(Matching):
            layers[f"MH-MoE, `{matching}`"] = match(matching, base, heads=HEADS)
        for label, layer in layers.items():
            heads = layer.heads if isinstance(layer, MultiHeadConfig) else 1
            moe, flops = experts_of(layer), layer.flops_per_token()
            router = heads * moe.router.flops_per_token()
            chosen = heads * moe.router.top_k * moe.experts.flops_per_token()
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
