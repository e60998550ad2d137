"""What earlier versions saved loads: temperatures without an axis, which FSDP would not take."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.distributed.fsdp import fully_shard

from mhmoe.layers.routers import ReleasedRouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.loop import make_optimizer
from tests import tiny
from tests.tiny import ROOT

IDS = torch.arange(1, 2 * 9 + 1).view(2, 9)
TEMPERATURE = "log_inverse_temperature"


def former(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    assert any(name.endswith(TEMPERATURE) for name in state)
    return {name: value.reshape(()) if name.endswith(TEMPERATURE) else value for name, value in state.items()}


@pytest.mark.parametrize("system", ["xmoe", "full"])
def test_a_folder_of_an_earlier_version_loads_and_is_saved_as_one_of_this(system: str, tmp_path: Path) -> None:
    model = tiny.model(system).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += 0.1 * name.endswith(TEMPERATURE)
    model.save_pretrained(tmp_path / "former")
    weights = tmp_path / "former" / "model.safetensors"
    save_file(former(load_file(weights)), weights, metadata={"format": "pt"})

    loaded = MHMoEForCausalLM.from_pretrained(tmp_path / "former").eval()
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    loaded.save_pretrained(tmp_path / "again")
    for name, value in load_file(tmp_path / "again" / "model.safetensors").items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_a_state_dict_of_an_earlier_version_loads() -> None:
    model, again = tiny.model("mhmoe_compute"), tiny.model("mhmoe_compute", seed=1)
    again.load_state_dict(former(model.state_dict()))
    assert torch.equal(again(IDS).logits, model(IDS).logits)


def test_a_folder_with_the_former_released_router_is_refused_with_the_reason(tmp_path: Path) -> None:
    router = ReleasedRouterConfig(dim=tiny.DIM, num_experts=4, router_dim=8)
    moe = tiny.MOE["xmoe"]
    assert isinstance(moe, SparseMoEConfig)
    tiny.model("xmoe", moe=moe.replace(router=router).to_dict()).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    text = config.read_text(encoding="utf-8")
    assert text.count(router.kind) == 1
    config.write_text(text.replace(router.kind, "released_router"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"kind='released_router' is no more: .* train again"):
        MHMoEForCausalLM.from_pretrained(tmp_path)


def test_the_temperature_is_still_trained_without_weight_decay() -> None:
    model = tiny.model("xmoe")
    decays = {
        id(parameter): group["weight_decay"]
        for group in make_optimizer(model, tiny.TRAINING).param_groups
        for parameter in group["params"]
    }
    found = [decays[id(p)] for name, p in model.named_parameters() if name.endswith(TEMPERATURE)]
    assert found == [0.0]


def test_fsdp_shards_every_block_and_trains() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # pyright: ignore
    try:
        model, whole = tiny.model("full").train(), tiny.model("full").train()
        for block in model.model.layers:
            fully_shard(block)
        fully_shard(model)
        for each in (model, whole):
            each(IDS, labels=IDS).loss.backward()
        for ours, theirs in zip(model.parameters(), whole.parameters(), strict=True):
            assert torch.allclose(ours.grad.full_tensor(), theirs.grad, atol=1e-6)  # pyright: ignore
    finally:
        dist.destroy_process_group()


OLD_SHIM = '''"""Lets transformers load this folder by the installed package: pip install mhmoe"""

from mhmoe.configuration import MHMoEConfig
from mhmoe.language_model import MHMoEForCausalLM, MHMoEModel
'''
PLAIN = """
import sys
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
print(type(model).__name__, sum(p.double().sum().item() for p in model.parameters()))
"""


@pytest.mark.parametrize(
    "imported", [pytest.param(True, marks=pytest.mark.slow), False], ids=["import mhmoe", "without"]
)
def test_a_folder_saved_before_the_modules_moved_loads(imported: bool, tmp_path: Path) -> None:
    model = tiny.model("mhmoe_compute")
    model.save_pretrained(tmp_path / "model")
    (shim,) = (tmp_path / "model").glob("*_shim.py")
    shim.write_text(OLD_SHIM)
    program = ("import mhmoe\n" if imported else "") + PLAIN
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "model"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    name, total = done.stdout.split()[-2:]
    assert name == "MHMoEForCausalLM"
    assert float(total) == pytest.approx(sum(p.double().sum().item() for p in model.parameters()), rel=1e-12)
