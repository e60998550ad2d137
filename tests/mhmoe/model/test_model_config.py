"""The model's config: what it takes, what it refuses in one line, and what it keeps of other tools."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PreTrainedConfig

from mhmoe import MultiHeadMoE
from mhmoe.layers.config import Config
from mhmoe.layers.experts import FeedForwardConfig
from mhmoe.layers.multi_head import multi_head_moe
from mhmoe.model.config import MHMoEConfig
from tests.small import make, make_config, xmoe

SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "moe_every",
)
NUMBERS = ("norm_eps", "rope_theta", "balance_weight")
SWITCHES = ("attention_bias", "tie_word_embeddings", "use_cache")
LAYERS = ("feed_forward", "moe")
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
REFUSED: list[tuple[str, Any, str]] = [
    *((name, value, "a whole number") for name in SIZES for value in (True, 2.5, "8", None, math.nan)),
    *((name, value, "at least 1") for name in SIZES for value in (0, -3)),
    *((name, value, "a finite number") for name in NUMBERS for value in (True, "1", None, math.nan, math.inf)),
    *(("norm_eps", value, "above 0 and at most 1") for value in (-1e-6, 0, 2.0)),
    *(("rope_theta", value, "at least 1") for value in (-1.0, 0.0, 0.5)),
    ("balance_weight", -0.1, "at least 0"),
    *((name, value, "True or False") for name in SWITCHES for value in (2, 0, "no")),
    *((name, value, "a whole number") for name in TOKENS for value in (True, 1.5)),
    *((name, -1, "at least 0") for name in TOKENS),
    *((name, 61, "below vocab_size=61, or None") for name in TOKENS),
    ("eos_token_id", [3, 99], "below vocab_size=61"),
    ("norm", "batch", "one of rms, layer"),
    ("hidden_size", 25, "is odd, and rotary positions turn pairs of numbers; choose an even one"),
    *((name, value, "is no layer's config; give feed_forward and moe") for name in LAYERS for value in ("mhmoe", [1])),
    ("moe", MultiHeadMoE(dim=24, num_experts=2, moe_heads=2, expert_dim=8), "MultiHead.* is no layer's config; give"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), REFUSED, ids=lambda value: str(value)[:20])
def test_a_value_that_is_not_allowed_is_refused_in_one_line(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=allowed) as error:
        make_config(**{name: value})
    assert "\n" not in str(error.value)
    assert name in str(error.value)


def test_whole_numbers_of_numpy_and_for_decimal_ones_are_taken_as_plain_ones() -> None:
    config = make_config(vocab_size=np.int64(61), rope_theta=500, eos_token_id=[1, 2])
    assert type(config.vocab_size) is int and type(config.rope_theta) is float
    assert json.loads(config.to_json_string())["eos_token_id"] == [1, 2]


def test_a_changed_config_is_checked_where_a_model_is_made_of_it_and_where_it_is_saved(tmp_path: Path) -> None:
    config = make_config()
    config.num_attention_heads = 5
    for use in (lambda: AutoModelForCausalLM.from_config(config), lambda: config.save_pretrained(tmp_path)):
        with pytest.raises(ValueError, match="num_attention_heads=5 does not cut hidden_size=24"):
            use()


def test_a_layer_is_given_as_a_config_or_in_its_json_form() -> None:
    moe: Config = multi_head_moe(dim=24, num_experts=4, expert_dim=8, moe_heads=2)
    dense = FeedForwardConfig(dim=24, inner_dim=20)
    config = make_config("dense", moe=moe, feed_forward=dense)
    assert config.moe == moe.to_dict() and config.feed_forward == dense.to_dict()
    assert config.layer(1) == moe and config.layer(0) == dense
    assert config.to_dict() == make_config("dense", moe=moe.to_dict(), feed_forward=dense.to_dict()).to_dict()


# Keys that are not ours


@pytest.mark.parametrize(
    "make_it",
    [MHMoEConfig, lambda **keys: AutoConfig.for_model("mhmoe", **keys), MHMoEConfig.from_dict],
    ids=["constructor", "for_model", "from_dict"],
)
def test_a_key_misspelt_by_a_person_is_refused(make_it: Any) -> None:
    with pytest.raises(ValueError, match="MHMoEConfig has no key 'hiden_size'; it has vocab_size, hidden_size"):
        make_it({"hiden_size": 24}) if make_it == MHMoEConfig.from_dict else make_it(hiden_size=24)


KEYS: dict[str, Any] = {
    "quantization_config": {"quant_method": "torchao", "modules_to_not_convert": ["lm_head"]},
    "pretraining_tp": 1,
    "unsloth_version": "2026.1",
    "sliding_window": None,
    "nested": {"of": ["another", "tool"]},
    "id2label": {"0": "no", "1": "yes"},
    "dtype": "bfloat16",
    "problem_type": "regression",
    "top_k": 50,  # of generation, which transformers takes out of configs
}


def round_trip(config: PreTrainedConfig, folder: Path) -> PreTrainedConfig:
    config.save_pretrained(folder)
    return AutoConfig.from_pretrained(folder)


@pytest.mark.parametrize("key", KEYS)
def test_a_saved_config_keeps_a_key_of_another_tool_as_a_stock_one_does(key: str, tmp_path: Path) -> None:
    kept: list[Any] = []
    for name, config in (("ours", make_config()), ("stock", LlamaConfig(vocab_size=61))):
        config.save_pretrained(tmp_path / name)
        file = tmp_path / name / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {key: KEYS[key]}))
        loaded = AutoConfig.from_pretrained(tmp_path / name)
        again = round_trip(loaded, tmp_path / f"{name} again")
        written = [json.loads((tmp_path / part / "config.json").read_text()) for part in (name, f"{name} again")]
        rebuilt = type(loaded)(**loaded.to_dict())
        copied = copy.deepcopy(loaded)
        kept.append([getattr(c, key, "gone") for c in (loaded, again, rebuilt, copied)])
        kept.append([w.get(key, "gone") for w in (written[1], loaded.to_dict(), loaded.to_diff_dict())])
    assert kept[:2] == kept[2:]


def test_a_key_that_a_tool_sets_on_a_models_config_does_not_keep_its_folder_from_loading(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make("xmoe")
    model.config.set_by_a_tool = 1
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.set_by_a_tool == 1
    assert "MHMoEConfig keeps the key 'set_by_a_tool', of which it makes no use" in caplog.text
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_key_that_would_hide_a_method_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="the key 'layer' would hide a method of MHMoEConfig"):
        MHMoEConfig.from_dict(make_config().to_dict() | {"layer": 1})


def test_values_given_while_loading_replace_saved_ones_and_are_checked(tmp_path: Path) -> None:
    make_config("xmoe").save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path, balance_weight=0.5).balance_weight == 0.5
    with pytest.raises(ValueError, match="num_attention_heads=5 does not cut hidden_size=24"):
        AutoConfig.from_pretrained(tmp_path, num_attention_heads=5)
    given: Any = AutoConfig.from_pretrained(tmp_path, extra=1, return_unused_kwargs=True)
    config, unused = given
    assert config.moe == xmoe().to_dict() and unused["extra"] == 1 and not hasattr(config, "extra")
