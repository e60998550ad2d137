"""An upcycled model goes on learning from where the dense model was, at least as well as the dense model itself."""

import copy
from pathlib import Path

import pytest
import torch

from mhmoe import MHMoEConfig, MHMoEForCausalLM, upcycle
from mhmoe.data.embedded import EmbeddedCorpus
from mhmoe.data.packing import PackedDataset, PackingConfig, pack
from mhmoe.training.config import TrainingConfig
from mhmoe.training.evaluation import evaluate
from mhmoe.training.loop import train

BEFORE = TrainingConfig(steps=300, batch_sequences=16, length=64, learning_rate=8e-3, evaluations=1)
AFTER = TrainingConfig(steps=200, batch_sequences=16, length=64, learning_rate=4e-3, evaluations=1)


def loss(model: MHMoEForCausalLM, text: PackedDataset) -> float:
    return evaluate(model, text.test, 64)["nll_per_token"]


@pytest.mark.slow
def test_an_upcycled_model_is_not_worse_than_the_dense_one_after_200_more_steps(tmp_path: Path) -> None:
    packing = PackingConfig(vocab_size=512, max_train_tokens=400_000, max_valid_tokens=20_000, max_test_tokens=20_000)
    text = pack(EmbeddedCorpus(max_characters=3_000_000), packing, tmp_path)
    torch.manual_seed(0)
    dense = MHMoEForCausalLM(MHMoEConfig(vocab_size=512, hidden_size=48, num_hidden_layers=4))
    train(dense, text, BEFORE, seed=1)
    before = loss(dense, text)
    copies = upcycle(copy.deepcopy(dense), num_experts=8, top_k=2, every=2)
    beside = upcycle(copy.deepcopy(dense), num_experts=8, top_k=2, heads=4, keep="shared", every=2)
    assert isinstance(copies, MHMoEForCausalLM) and isinstance(beside, MHMoEForCausalLM)
    assert abs(loss(copies, text) - before) < 1e-4 and abs(loss(beside, text) - before) < 1e-4
    found: dict[str, float] = {}
    for name, model in {"dense": dense, "copies": copies, "beside": beside}.items():
        train(model, text, AFTER, seed=2)
        found[name] = loss(model, text)
    print(f"nats a token before {before:.4f}; after 200 steps {found}")
    assert found["dense"] < before
    assert found["copies"] <= found["dense"] and found["beside"] <= found["dense"]
