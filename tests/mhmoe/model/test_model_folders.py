"""Models and configs on disk, as transformers saves and loads them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from mhmoe.layers.experts import FeedForwardConfig
from mhmoe.layers.per_head import PerHeadRouterConfig
from mhmoe.layers.sparse_moe import ResidualConfig
from mhmoe.model.config import MHMoEConfig
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.model.masked import language_model
from tests.small import every_system, make, make_config, tokens, xmoe

ROOT = Path(__file__).parents[3]


def test_a_folder_that_lacks_a_weight_is_refused_and_none_is_made_up(tmp_path: Path) -> None:
    make("mhmoe compute").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if name.endswith("attention.o_proj.weight"))
    del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"does not fit its config: 1 missing weights, such as {name};"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("untied", [False, True], ids=["tied", "untied"])
@every_system
def test_a_saved_model_loads_through_the_auto_classes_bit_for_bit(system: str, untied: bool, tmp_path: Path) -> None:
    model = make(system, tie_word_embeddings=not untied)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(loaded) is MHMoEForCausalLM
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.moe, config.feed_forward) == (model.config.moe, model.config.feed_forward)
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    tied = loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert tied != untied
    ids = tokens()
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_an_unchanged_config_survives_the_disk(tmp_path: Path) -> None:
    changes = {
        "norm": "layer",
        "norm_eps": 1e-5,
        "attention_bias": True,
        "rope_theta": 500.0,
        "balance_weight": 0.125,
    }
    config = make_config(moe_every=1, tie_word_embeddings=False, **changes)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, MHMoEConfig)
    for name in MHMoEConfig.__annotations__:
        assert getattr(loaded, name) == getattr(config, name), name


FROM_THE_FOLDER_ALONE = """
import json, sys
import torch
import transformers
assert "mhmoe" not in sys.modules
model = getattr(transformers, sys.argv[3]).from_pretrained(sys.argv[1], trust_remote_code=True).eval()
logits = model(torch.tensor(json.loads(sys.argv[2]))).logits
print(json.dumps([float(v) for v in logits.flatten()]))
"""


@pytest.mark.parametrize("auto", ["AutoModelForCausalLM", "AutoModelForMaskedLM"])
def test_a_saved_folder_loads_where_nobody_imported_the_package(auto: str, tmp_path: Path) -> None:
    model = language_model(make_config("mhmoe parameters", is_causal="Causal" in auto)).eval()
    ids = tokens(1, 6)
    model.save_pretrained(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-c", FROM_THE_FOLDER_ALONE, str(tmp_path / "model"), json.dumps(ids.tolist()), auto],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == model(ids).logits.flatten().tolist()


def test_a_checkpoint_cut_short_is_an_error(tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SafetensorError, match=r"incomplete metadata|not fully covered"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"num_attention_heads": 5},
            "num_attention_heads=5 does not cut hidden_size=24 into even .*1, 2, 3, 4, 6, 12",
        ),
        ({"num_attention_heads": 8}, "num_attention_heads=8 does not cut hidden_size=24 into even"),
        ({"hidden_size": 0}, "hidden_size=0 is not allowed; it must be at least 1"),
        ({"max_position_embeddings": 0}, "max_position_embeddings=0 is not allowed"),
        ({"norm": "batch"}, "norm='batch' is not allowed; it must be one of rms, layer"),
        ({"balance_weight": -0.1}, "balance_weight=-0.1 is not allowed; it must be at least 0"),
        ({"moe_every": 3}, "moe_every=3 exceeds num_hidden_layers=2, .*; choose at most 2"),
        ({"hidden_size": 48}, "feed_forward has dim=24, the model hidden_size=48; give both the same"),
        (
            {"moe": FeedForwardConfig(dim=8, inner_dim=8).to_dict()},
            "feed_forward has dim=8, the model hidden_size=24",
        ),
        (
            {"moe": ResidualConfig(inner=FeedForwardConfig(dim=8, inner_dim=8)).to_dict()},
            "residual has dim=8",
        ),
        (
            {"moe": xmoe().replace(router=xmoe().router.replace(dim=40), scored_dim=40).to_dict()},
            "the router of sparse_moe reads width 40, and is given 24",
        ),
        (
            {"moe": xmoe().replace(router=PerHeadRouterConfig.of(xmoe().router.replace(num_experts=2), 2)).to_dict()},
            "per_head_router has 2 heads; put multi_head with as many around it",
        ),
        ({"moe": xmoe().router.to_dict()}, "xmoe_router is a part of a layer; give a whole one"),
        ({"moe": {"kind": "switch"}}, "kind='switch' is not known; choose one of .*sparse_moe"),
        ({"moe": xmoe().to_dict() | {"top_k": 2}}, "sparse_moe has no field 'top_k'; it has router, experts"),
        (
            {"moe": {"kind": "sparse_moe", "router": xmoe().router.to_dict()}},
            "sparse_moe needs the field 'experts'",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(next(iter(value))),
)
def test_an_edited_config_file_that_fits_nothing_is_refused_by_name(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    make_config("xmoe").save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        AutoConfig.from_pretrained(tmp_path)
