"""How alike experts are: 1 for equal functions, whatever their weights look like, and about 0 for unrelated ones."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from analysis.experts_alike import measure_alike
from analysis.routing.text import Windows, windows_of
from baselines.hierarchical import hierarchical
from baselines.latentmoe import latentmoe
from mhmoe.data.packing import PackedDataset
from mhmoe.layers.beside import BesideConfig
from mhmoe.layers.config import LayerConfig
from mhmoe.layers.experts import Experts, FeedForwardConfig
from mhmoe.layers.normed import NormedConfig
from mhmoe.model import alike
from mhmoe.model.alike import _cosines, entering
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.model.masked import MHMoEForMaskedLM
from mhmoe.model.transformer import rotation
from tests import tiny

LENGTH = 16


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Windows:
    text: PackedDataset = tiny.text(tmp_path_factory.mktemp("packed"))
    return windows_of(text.test, LENGTH).full.spaced(6)


def experts_of(model: MHMoEForCausalLM) -> list[Experts]:
    return [module for module in model.modules() if isinstance(module, Experts)]


def test_the_mean_over_pairs_is_that_of_a_loop() -> None:
    outputs = torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(0))
    pairs = [
        float(torch.nn.functional.cosine_similarity(outputs[p, r], outputs[q, r], dim=0))
        for p in range(5)
        for q in range(p)
        for r in range(7)
    ]
    assert float(_cosines(outputs).mean()) == pytest.approx(np.mean(pairs), abs=1e-6)


def test_rows_for_which_an_expert_gives_nothing_are_left_out() -> None:
    outputs = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    whole = _cosines(outputs[:, 1:])
    outputs[1, 0] = 0
    assert torch.equal(_cosines(outputs), whole)
    assert math.isnan(_cosines(torch.zeros(2, 3, 4)).mean())


def test_of_a_masked_model_they_are_as_alike_with_either_kernel() -> None:
    torch.manual_seed(0)
    model = MHMoEForMaskedLM(tiny.config("xmoe", is_causal=False))
    tokens = torch.randint(50, (3, LENGTH))
    whole = alike.alike(model, tokens)
    model.set_attn_implementation("eager")
    assert len(whole) > 0 and alike.alike(model, tokens) == pytest.approx(whole, abs=1e-6)


def test_rows_are_taken_some_at_a_time_and_a_network_beside_the_experts_hides_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mixture = tiny.MOE["xmoe"]
    assert isinstance(mixture, LayerConfig)
    beside = BesideConfig(shared=FeedForwardConfig(dim=tiny.DIM, inner_dim=8), routed=mixture)
    model = MHMoEForCausalLM(tiny.config("xmoe", moe=beside.to_dict()))
    tokens = torch.randint(50, (3, LENGTH), generator=torch.Generator().manual_seed(0))
    whole = alike.alike(model, tokens)
    model.set_attn_implementation("eager")
    assert alike.alike(model, tokens) == pytest.approx(whole, abs=1e-6)
    model.set_attn_implementation("sdpa")
    monkeypatch.setattr(alike, "_ROWS", 7)
    assert len(whole) > 0 and alike.alike(model, tokens) == pytest.approx(whole, abs=1e-7)


@pytest.mark.parametrize("system", ["xmoe", "mhmoe_parameters"])
def test_equal_functions_are_alike_even_with_their_inner_units_in_another_order(system: str, windows: Windows) -> None:
    model = tiny.model(system)
    with torch.no_grad():
        for experts in experts_of(model):
            for p in range(experts.num_experts):
                order = torch.randperm(experts.up_proj.shape[1], generator=torch.Generator().manual_seed(p))
                experts.up_proj[p] = experts.up_proj[0][order] if p else experts.up_proj[0]
                experts.down_proj[p] = experts.down_proj[0][:, order] if p else experts.down_proj[0]
    found = measure_alike(model, windows, seed=0)
    assert found is not None
    assert found.trained == pytest.approx([1.0], abs=1e-6) and abs(found.untrained[0]) < 0.3


@pytest.mark.parametrize("system", ["xmoe", "mhmoe_compute"])
def test_what_enters_the_experts_is_what_the_layer_itself_gives_them(system: str, windows: Windows) -> None:
    """What the experts make of it, as it was routed, leads to the model's own last state."""
    model = tiny.model(system).eval()
    tokens = torch.from_numpy(windows.inputs)
    with torch.no_grad():
        output: Any = model(tokens, output_hidden_states=True, output_routing=True)
        block: Any = model.model.layers[1]
        ((experts, rows),) = entering(block, output.hidden_states[1])
        (routing,) = output.routing
        mixed = experts(rows, routing.index, routing.weight)
        mixed = block.feed_forward.merge(mixed.flatten(-2)) if system == "mhmoe_compute" else mixed
        cos, sin = rotation(torch.arange(LENGTH).unsqueeze(0), tiny.DIM // 2, model.config.rope_theta)
        x = output.hidden_states[1]
        attended, _ = block.attention(block.attention_norm(x), (cos.unsqueeze(1), sin.unsqueeze(1)))
        last = model.model.norm(x + attended + mixed)
    assert torch.allclose(last, output.hidden_states[2], atol=1e-5)


def test_the_experts_of_all_groups_and_of_a_narrow_space_are_compared(windows: Windows) -> None:
    latent = latentmoe(tiny.DIM, 8, 4, 2, expert_dim=16, normed=True)
    for moe, inside in ((hierarchical(tiny.DIM, 2, 3, expert_dim=8), 2), (NormedConfig(inner=latent), 1)):
        model = tiny.model("xmoe", moe=moe.to_dict())
        found = measure_alike(model, windows, seed=0)
        assert found is not None and len(found.trained) == 1 and abs(found.trained[0]) < 0.5
        assert len(experts_of(model)) == inside


def test_a_dense_model_has_no_experts_to_compare(windows: Windows) -> None:
    assert measure_alike(tiny.model("dense"), windows, seed=0) is None
