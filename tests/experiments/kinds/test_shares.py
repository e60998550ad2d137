"""Shares of a transformer's parts: they add up, and are those of a built model and of torch's counter."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments.ffn_share import PAGE
from experiments.kinds.shares import share_row
from mhmoe.model.config import MHMoEConfig
from mhmoe.model.language_model import MHMoEForCausalLM

TINY: dict[str, Any] = {"vocab_size": 61, "hidden_size": 24, "num_attention_heads": 2, "max_position_embeddings": 16}


@pytest.mark.parametrize("tied", [True, False])
def test_parts_are_those_of_a_built_model(tied: bool) -> None:
    config = MHMoEConfig(**TINY, tie_word_embeddings=tied)
    row, model = share_row("tiny", config), MHMoEForCausalLM(config)
    model.set_attn_implementation("eager")  # the others' products are not counted on a CPU
    networks = sum(p.numel() for name, p in model.named_parameters() if ".feed_forward." in name)
    attention = sum(p.numel() for name, p in model.named_parameters() if "_proj" in name) - networks
    whole = sum(p.numel() for p in model.parameters())
    assert row["parameters"] == whole and row["ffn"] == pytest.approx(networks / whole)
    assert row["attention"] == pytest.approx(attention / whole)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 16, dtype=torch.long))
    assert counter.get_total_flops() == 16 * row["flops"]


def test_flop_shares_add_up_and_parameters_lack_norms_alone() -> None:
    for model in PAGE.models:
        row = share_row(model.label, model.build())
        parts = ("ffn_flops", "projection_flops", "score_flops", "output_flops")
        assert sum(row[name] for name in parts) == pytest.approx(1)
        assert 0.99 < sum(row[name] for name in ("ffn", "attention", "embeddings")) <= 1


def test_the_published_models_have_their_published_parameters() -> None:
    counts = {model.label: model.build().parameters() for model in PAGE.models}
    assert counts["Llama 2 7B"] == 6_738_415_616
    assert counts["GPT-3 175B"] / 1e9 == pytest.approx(175, abs=0.5)


def test_an_inner_width_of_four_is_two_thirds_of_the_blocks_at_any_size() -> None:
    for model in PAGE.models:
        assert share_row(model.label, model.build())["ffn_of_blocks"] == pytest.approx(2 / 3, abs=0.003)
