"""A page of what a transformer's parts are of the whole, in parameters and FLOPs, from configs alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.tables import Column, Row, table_markdown
from experiments.runner.page import Page, Section
from experiments.runner.store import Records
from experiments.scales import SCALES, Scale
from experiments.system import System
from mhmoe.model.config import MHMoEConfig

COLUMNS = (
    Column("label", "model"),
    Column("dim", "width", ","),
    Column("blocks", "blocks"),
    Column("length", "length", ","),
    Column("parameters", "parameters (M)", ",.1f", 1e-6),
    Column("ffn", "FFN", ".1f", 100, "%"),
    Column("attention", "attention", ".1f", 100, "%"),
    Column("embeddings", "embeddings", ".1f", 100, "%"),
    Column("ffn_of_blocks", "FFN, of blocks alone", ".1f", 100, "%"),
)
FLOP_COLUMNS = (
    Column("label", "model"),
    Column("flops", "GFLOPs a token", ",.3f", 1e-9),
    Column("ffn_flops", "FFN", ".1f", 100, "%"),
    Column("projection_flops", "attention's projections", ".1f", 100, "%"),
    Column("score_flops", "scores and sums over positions", ".1f", 100, "%"),
    Column("output_flops", "output layer", ".1f", 100, "%"),
    Column("ffn_of_block_flops", "FFN, of blocks alone", ".1f", 100, "%"),
)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A dense transformer: label, arguments of MHMoEConfig, where they are printed."""

    label: str
    config: Mapping[str, Any] = field(hash=False)
    source: str

    def build(self) -> MHMoEConfig:
        return MHMoEConfig(**self.config)


@dataclass(frozen=True, kw_only=True)
class Shares(Page):
    """models: from small to large. They are of no scale; the page has one section."""

    trains = False
    models: Sequence[Model]
    shown_at: str = "paper"

    def all_systems(self) -> list[System]:
        return []

    def scales(self, rendered: Sequence[Scale]) -> Sequence[Scale]:
        return [SCALES[self.shown_at]]

    def section(self, scale: Scale, records: Records, folder: Path) -> Section | None:
        rows = [share_row(model.label, model.build()) for model in self.models]
        sources = "\n".join(f"- {model.label}: {model.source}" for model in self.models)
        page = f"### Parameters\n\n{table_markdown(COLUMNS, rows)}\n### FLOPs\n\n{table_markdown(FLOP_COLUMNS, rows)}"
        return Section(f"{page}\n{sources}\n", (*COLUMNS, *FLOP_COLUMNS[1:]), rows)


def share_row(label: str, config: MHMoEConfig) -> Row:
    """Parameters and forward FLOPs of a token, at the model's own length, by part."""
    d, blocks, length = config.hidden_size, config.num_hidden_layers, config.max_position_embeddings
    layers = [config.layer(block) for block in range(blocks)]
    whole, flops = config.parameters(), config.flops_per_token()
    ffn, ffn_flops = sum(layer.parameters() for layer in layers), sum(layer.flops_per_token() for layer in layers)
    embeddings = config.vocab_size * d * (1 if config.tie_word_embeddings else 2)
    attention = blocks * (4 * d**2 + config.attention_bias * 4 * d)
    output = 2 * d * config.vocab_size
    return {
        "label": label,
        "dim": d,
        "blocks": blocks,
        "length": length,
        "parameters": whole,
        "ffn": ffn / whole,
        "attention": attention / whole,
        "embeddings": embeddings / whole,
        "ffn_of_blocks": ffn / (ffn + attention),
        "flops": flops,
        "ffn_flops": ffn_flops / flops,
        "projection_flops": 8 * blocks * d**2 / flops,
        "score_flops": 4 * blocks * length * d / flops,
        "output_flops": output / flops,
        "ffn_of_block_flops": ffn_flops / (flops - output),
    }
