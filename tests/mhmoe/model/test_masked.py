"""The model of masked tokens: every token sees all others, and labels stand where they are predicted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, Trainer, TrainingArguments

from mhmoe.layers.expert_choice import ExpertChoiceConfig
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.routers import XMoERouterConfig
from mhmoe.model.base_model import MHMoEModel
from mhmoe.model.checkpoints import load
from mhmoe.model.config import MHMoEConfig
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.model.masked import MHMoEForMaskedLM, language_model
from tests import tiny
from tests.small import DIM, every_system, make, make_config, tokens

ROOT = Path(__file__).parents[3]


def masked(system: str = "mhmoe compute", attention: str = "sdpa", **changes: Any) -> Any:
    torch.manual_seed(0)
    config = make_config(system, is_causal=False, **changes)
    return AutoModelForMaskedLM.from_config(config, attn_implementation=attention).eval()


# ---- what a token sees ----------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_token_sees_every_other(attention: str) -> None:
    model, ids = masked(attention=attention, num_hidden_layers=2), tokens(1, 7)
    before = model(ids).logits
    for changed in range(7):
        other = ids.clone()
        other[0, changed] = 1 + ids[0, changed] % 60
        assert ((model(other).logits - before).abs().amax(dim=-1) > 1e-6).all()
    causal, last = make(attention=attention), ids.clone()
    last[0, -1] = 1 + ids[0, -1] % 60
    assert torch.equal(causal(ids).logits[:, :-1], causal(last).logits[:, :-1])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_not_seen(side: str, attention: str) -> None:
    """A short row in a batch is what it is alone; what stands in its padding makes no difference."""
    model, ids = masked(attention=attention), tokens(2, 9)
    there = torch.ones(2, 9, dtype=torch.long)
    own = slice(3, None) if side == "left" else slice(None, 6)
    there[0] = 0
    there[0, own] = 1
    found = model(ids, attention_mask=there).logits
    assert torch.allclose(found[1], model(ids[1:]).logits[0], atol=1e-5)
    other = torch.where(there.bool(), ids, 1 + ids % 60)
    assert torch.allclose(model(other, attention_mask=there).logits[0, own], found[0, own], atol=1e-6)
    assert torch.allclose(found[0, own], model(ids[:1, own]).logits[0], atol=1e-5)  # rotary positions are relative
    assert not torch.allclose(found[0, own], model(ids).logits[0, own], atol=1e-3)


@every_system
def test_the_eager_kernel_and_sdpa_agree(system: str) -> None:
    sdpa, eager, ids = masked(system), masked(system, attention="eager"), tokens(2, 11)
    eager.load_state_dict(sdpa.state_dict())
    assert torch.allclose(sdpa(ids).logits, eager(ids).logits, atol=1e-5)
    there = (torch.arange(11) < torch.tensor([[11], [5]])).long()
    for row, length in enumerate((11, 5)):
        found, wanted = (model(ids, attention_mask=there).logits[row, :length] for model in (sdpa, eager))
        assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@every_system
def test_with_one_block_the_last_token_is_that_of_the_causal_model(system: str, attention: str) -> None:
    """It alone sees the same; and all others do once they stand last in a causal row."""
    one: dict[str, Any] = {"num_hidden_layers": 1, "moe_every": 1}
    causal, ids = make(system, **one), tokens(2, 9)
    both = masked(system, attention=attention, **one)
    both.load_state_dict(causal.state_dict())
    found, wanted = both(ids).logits, causal(ids).logits
    assert torch.allclose(found[:, -1], wanted[:, -1], atol=1e-5)
    assert ((found - wanted).abs().amax(dim=-1)[:, :-1] > 1e-4).all()
    assert torch.allclose(both(ids[:, :4]).logits[:, -1], wanted[:, 3], atol=1e-5)


def test_the_order_of_tokens_matters_on_both_sides() -> None:
    model, ids = masked(), torch.tensor([[5, 6, 7, 8, 9]])
    swapped = torch.tensor([[5, 6, 7, 9, 8]])
    assert not torch.allclose(model(ids).logits[0, 2], model(swapped).logits[0, 2], atol=1e-4)


def test_documents_told_apart_by_positions_do_not_see_each_other() -> None:
    """As the causal model's do; see MHMoEModel."""
    model, ids = masked(), tokens(1, 9)
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
    found = model(ids, position_ids=positions).logits
    assert torch.allclose(found[:, :4], model(ids[:, :4]).logits, atol=1e-5)
    assert torch.allclose(found[:, 4:], model(ids[:, 4:]).logits, atol=1e-5)


def test_nothing_is_cached() -> None:
    assert masked()(tokens()).past_key_values is None


# ---- the loss -------------------------------------------------------------------------------


def labels_of(ids: Tensor) -> Tensor:
    """Of some tokens, the first and the last among them."""
    chosen = torch.zeros_like(ids, dtype=torch.bool)
    chosen[0, [0, 3]], chosen[1, -1] = True, True
    return torch.where(chosen, ids, -100)


def test_the_loss_is_the_cross_entropy_where_labels_stand() -> None:
    model, ids = masked(), tokens(2, 9)
    labels = labels_of(ids)
    output = model(ids, labels=labels)
    nll = -output.logits.double().log_softmax(dim=-1)
    wanted = torch.stack([nll[0, 0, ids[0, 0]], nll[0, 3, ids[0, 3]], nll[1, 8, ids[1, 8]]]).mean()
    assert output.loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert output.task_loss.item() == output.loss.item()


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_in_training_the_balance_loss_counts_beside_it(weight: float) -> None:
    model, ids = masked(balance_weight=weight).train(), tokens(2, 9)
    output = model(ids, labels=labels_of(ids))
    assert output.loss.item() == pytest.approx(output.task_loss.item() + weight * output.balance_loss.item(), rel=1e-6)
    assert output.balance_loss.item() > 0.5


def test_parts_of_a_batch_add_up_by_their_numbers_of_labels() -> None:
    """The contract of the causal model: the nll over all labels, and each part's balance loss by its labels."""
    model, ids = masked(balance_weight=0.5).train(), tokens(2, 9)
    labels = labels_of(ids)
    for row, share in ((0, 2 / 3), (1, 1 / 3)):
        part = slice(row, row + 1)
        output = model(ids[part], labels=labels[part], num_items_in_batch=3)
        logits = output.logits.flatten(0, 1)
        nll = F.cross_entropy(logits, labels[part].flatten(), ignore_index=-100, reduction="sum")
        wanted = nll / 3 + 0.5 * share * output.balance_loss
        assert output.task_loss.item() == pytest.approx(nll.item() / 3, rel=1e-5)
        assert output.loss.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_a_tuple_is_returned_where_that_is_asked_for() -> None:
    model, ids = masked(), tokens(2, 9)
    loss, logits = model(ids, labels=ids, return_dict=False)[:2]
    assert torch.equal(logits, model(ids).logits)
    assert loss.item() == pytest.approx(F.cross_entropy(logits.flatten(0, 1), ids.flatten()).item(), rel=1e-5)


def test_trainer_reads_rows_of_a_table_and_descends_on_the_masked_tokens(tmp_path: Path) -> None:
    """Trainer keeps those columns that `forward` names."""
    import datasets

    ids = tokens(2, 9)
    columns = {"input_ids": ids.tolist(), "labels": labels_of(ids).tolist()}
    table: Any = datasets.Dataset.from_dict(columns)
    model = masked(balance_weight=0.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain: dict[str, Any] = {"optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant", "max_grad_norm": 0}
    quiet: dict[str, Any] = {"report_to": [], "disable_tqdm": True, "save_strategy": "no", "use_cpu": True}
    quiet |= {"dataloader_pin_memory": False, "max_steps": 1}
    Trainer(model, TrainingArguments(output_dir=str(tmp_path), **plain | quiet), train_dataset=table).train()
    taken = {name: before[name] - value for name, value in model.state_dict().items()}
    model.load_state_dict(before)
    model.zero_grad()
    labels = labels_of(ids)
    F.cross_entropy(model(ids).logits.flatten(0, 1), labels.flatten(), ignore_index=-100).backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(taken[name], parameter.grad, atol=1e-5), name


# ---- on disk --------------------------------------------------------------------------------


@every_system
def test_a_saved_model_loads_through_the_auto_classes_bit_for_bit(system: str, tmp_path: Path) -> None:
    model, ids = masked(system), tokens()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert type(loaded) is MHMoEForMaskedLM and loaded.config.is_causal is False
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    bare = AutoModel.from_pretrained(tmp_path).eval()
    assert type(bare) is MHMoEModel
    assert torch.equal(bare(ids).last_hidden_state, model.model(ids).last_hidden_state)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["architectures"] == ["MHMoEForMaskedLM"] and saved["is_causal"] is False


def test_the_package_loads_a_folder_with_its_tokenizer(tmp_path: Path) -> None:
    from mhmoe.data.tokenizer import as_transformers, train_tokenizer

    model, ids = masked(vocab_size=300), tokens()
    model.save_pretrained(tmp_path)
    as_transformers(train_tokenizer(["the moon"], 300)).save_pretrained(tmp_path)
    loaded, _ = load(str(tmp_path), masked=True)
    assert type(loaded) is MHMoEForMaskedLM and torch.equal(loaded.eval()(ids).logits, model(ids).logits)


def test_the_causal_models_folder_is_as_it_was(tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    (shim,) = tmp_path.glob("*_shim.py")
    assert "MHMoEForCausalLM" in shim.read_text() and "Masked" not in shim.read_text()
    assert "AutoModelForMaskedLM" not in (tmp_path / "config.json").read_text()
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path)) is MHMoEForCausalLM


# ---- what is refused, and what is not -------------------------------------------------------


def saved(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda _: MHMoEForCausalLM(make_config(is_causal=False)), "MHMoEForCausalLM needs is_causal=True"),
        (lambda _: MHMoEForMaskedLM(make_config()), "MHMoEForMaskedLM needs is_causal=False"),
        (lambda _: AutoModelForMaskedLM.from_config(make_config()), "needs is_causal=False"),
        (lambda folder: AutoModelForCausalLM.from_pretrained(saved(folder, masked())), "needs is_causal=True"),
        (lambda folder: AutoModelForMaskedLM.from_pretrained(saved(folder, make())), "needs is_causal=False"),
        (lambda _: masked().generate(tokens(), max_new_tokens=2), "generates nothing"),
        (lambda _: make_config(is_causal="no"), "^is_causal='no' is not allowed"),
    ],
)
def test_a_model_of_the_other_kind_is_refused(make_it: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make_it(tmp_path)
    assert "\n" not in str(caught.value)


def test_it_says_that_it_does_not_generate() -> None:
    assert not MHMoEForMaskedLM.can_generate() and MHMoEForCausalLM.can_generate()


def test_a_config_makes_the_model_that_it_is_of() -> None:
    assert type(language_model(make_config())) is MHMoEForCausalLM
    assert type(language_model(make_config(is_causal=False))) is MHMoEForMaskedLM


def test_a_layer_that_looks_ahead_is_allowed() -> None:
    """Expert choice, which the causal model refuses; it trains, and counts its parameters."""
    experts = ExpertsConfig(dim=DIM, num_experts=4, expert_dim=8)
    moe = ExpertChoiceConfig(router=XMoERouterConfig(dim=DIM, num_experts=4, top_k=2), experts=experts)
    with pytest.raises(ValueError, match="must not see"):
        make_config(moe=moe.to_dict())
    model = masked(moe=moe.to_dict()).train()
    assert model.num_parameters() == model.config.parameters()
    ids = tokens()
    model(ids, labels=labels_of(ids)).loss.backward()
    routed = [p.grad for name, p in model.named_parameters() if "experts" in name]
    assert routed and all(gradient is not None and gradient.abs().sum() > 0 for gradient in routed)


def test_the_identity_of_a_causal_model_is_as_it_was() -> None:
    assert "is_causal" not in tiny.config("xmoe").identity()
    identity = tiny.config("xmoe", is_causal=False).identity()
    assert identity["is_causal"] is False
    assert {name: value for name, value in identity.items() if name != "is_causal"} == tiny.config("xmoe").identity()
    assert MHMoEConfig(**identity).identity() == identity


def test_blocks_computed_twice_give_the_same_gradients() -> None:
    ids, found = tokens(), list[dict[str, Tensor]]()
    for twice in (False, True):
        model = masked().train()
        if twice:
            tiny.checkpoint_blocks(model, reentrant=False)
        model(ids, labels=labels_of(ids)).loss.backward()
        found.append(tiny.gradients(model))
    assert tiny.worst_tensor(found[1], found[0]) < 1e-6
