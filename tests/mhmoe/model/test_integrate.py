"""Layers of ours in other libraries' models: trained, saved, loaded; and dense models that become mixtures."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    Trainer,
    TrainingArguments,
)

from baselines.switch import switch
from mhmoe import (
    MHMoEConfig,
    MHMoEForCausalLM,
    SparseMoEConfig,
    XMoERouterConfig,
    integrate,
    load_integrated,
    multi_head_moe,
    upcycle,
)
from mhmoe.io import UserError
from mhmoe.layers.expert_choice import ExpertChoiceConfig
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.routers import DotProductRouterConfig
from mhmoe.model.integrate import _check_call, feed_forward_places
from mhmoe.training.config import TrainingConfig
from mhmoe.training.loop import train
from tests import tiny

DIM, VOCABULARY = 16, 40
IDS = torch.randint(VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(0))
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": DIM,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
MAKE: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8, num_key_value_heads=2)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_embd=DIM, n_layer=4, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0
        )
    ),
    "gpt-neo": lambda: GPTNeoForCausalLM(
        GPTNeoConfig(
            vocab_size=VOCABULARY,
            hidden_size=DIM,
            num_layers=4,
            num_heads=2,
            attention_types=[[["global"], 4]],
            max_position_embeddings=32,
            bos_token_id=0,
            eos_token_id=0,
        )
    ),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=3)),
    "qwen3_moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SIZES, num_key_value_heads=2, num_experts=3, num_experts_per_tok=2, moe_intermediate_size=8)
    ),
    "ours": lambda: MHMoEForCausalLM(
        MHMoEConfig(vocab_size=VOCABULARY, hidden_size=DIM, num_hidden_layers=4, num_attention_heads=2)
    ),
}
DENSE = ["llama", "qwen3", "gpt2", "gpt-neo", "ours"]
LAYER = multi_head_moe(dim=DIM, num_experts=4, moe_heads=2, expert_dim=12)


def make(family: str) -> Any:
    """Random, with biases and norms that are not as they start, so that forgetting one shows."""
    torch.manual_seed(0)
    model = MAKE[family]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


def in_own_memory(model: Any) -> Any:
    """With copies of its parameters: mapped from a file they may begin anywhere, where some CPUs round otherwise."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


# ---- integrate ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "mixtral"])
def test_a_model_with_our_layers_is_saved_loaded_and_generates(family: str, tmp_path: Path) -> None:
    model: Any = integrate(make(family), LAYER, blocks=[1, 3])
    assert [type(model.get_submodule(n)).__name__ == "HiddenOnly" for n in feed_forward_places(model).values()] == [
        False,
        True,
        False,
        True,
    ]
    before = logits(model)
    model.save_pretrained(tmp_path)
    again: Any = load_integrated(tmp_path)
    assert type(again) is type(model) and again.config.model_type == f"mhmoe_{family}"
    torch.testing.assert_close(logits(in_own_memory(again)), before, rtol=0, atol=0)
    generated = again.generate(IDS[:, :4], max_new_tokens=3, do_sample=False, pad_token_id=0)
    cacheless = again.generate(IDS[:, :4], max_new_tokens=3, do_sample=False, pad_token_id=0, use_cache=False)
    assert generated.shape == (3, 7) and torch.equal(generated, cacheless)
    found = in_own_memory(AutoModelForCausalLM.from_pretrained(tmp_path))
    torch.testing.assert_close(logits(found), before, rtol=0, atol=0)


@pytest.mark.parametrize("blocks", [None, [1]], ids=["all blocks", "one block"])
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "llama"])
def test_a_model_that_was_loaded_is_saved_as_what_it_became(family: str, blocks: list[int] | None, tmp_path: Path):
    make(family).save_pretrained(tmp_path / "base")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model: Any = integrate(loaded, LAYER, blocks=blocks)
    before = logits(model)
    model.save_pretrained(tmp_path / "ours")
    again: Any = load_integrated(tmp_path / "ours")
    assert again.config.model_type == model.config.model_type == f"mhmoe_{family}"
    torch.testing.assert_close(logits(in_own_memory(again)), before, rtol=0, atol=0)


def test_a_mixture_without_a_router_of_its_own_has_no_router_logits(tmp_path: Path) -> None:
    def mixtral() -> Any:
        model = make("mixtral")
        model.config.output_router_logits = True
        return model

    whole: Any = integrate(mixtral(), LAYER)
    assert not whole.config.output_router_logits and whole(IDS, labels=IDS).loss.isfinite()
    with pytest.raises(ValueError, match="no router of the base is left"):
        whole(IDS, output_router_logits=True)
    part: Any = integrate(mixtral(), LAYER, blocks=[1])
    assert part.config.output_router_logits and len(part(IDS, labels=IDS).router_logits) == 3


def test_a_model_with_our_layers_goes_through_pickle() -> None:
    model: Any = integrate(make("llama"), LAYER, blocks=[1])
    again = pickle.loads(pickle.dumps(model))
    assert type(again) is type(model) and type(again.config) is type(model.config)
    assert again.config.to_dict() == model.config.to_dict()
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=0)
    again.train()(IDS, labels=IDS).loss.backward()
    assert len(again.balance_losses) == 1


def test_transformers_alone_refuses_the_folder_instead_of_making_networks_up(tmp_path: Path) -> None:
    integrate(make("llama"), LAYER).save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    raw["model_type"] = "mhmoe_unheard_of"  # as this type is where nobody imported mhmoe
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match="mhmoe_unheard_of"):
        AutoConfig.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="made of 'unheard_of', which this version of transformers does not have"):
        load_integrated(tmp_path)


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    model: Any = integrate(make("llama"), LAYER, blocks=[1])
    model.save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    raw["integrated"]["layers"]["model.layers.2.mlp"] = LAYER.to_dict()
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(UserError, match=r"does not fit its config: \d+ weights, such as model.layers.2.mlp"):
        load_integrated(tmp_path)


def test_in_training_the_loss_has_the_balance_losses_and_in_evaluation_not() -> None:
    model: Any = integrate(make("llama"), LAYER, blocks=[1, 3], balance_weight=0.5)
    plain = model(IDS, labels=IDS).loss
    model.train()
    trained = model(IDS, labels=IDS).loss
    assert len(model.balance_losses) == 2
    balance = torch.stack(model.balance_losses).mean()
    torch.testing.assert_close(trained, plain + 0.5 * balance)
    items = torch.tensor(48)  # of two batches as large as this one
    halved = model(IDS, labels=IDS, num_items_in_batch=items).loss
    torch.testing.assert_close(halved, (plain + 0.5 * balance) / 2)
    as_tuple = model(IDS, labels=IDS, return_dict=False)
    torch.testing.assert_close(as_tuple[0], trained)
    assert model(IDS).loss is None


def test_a_balance_loss_that_would_be_lost_is_refused() -> None:
    model: Any = integrate(make("llama"), LAYER, blocks=[1], balance_weight=0.5).train()
    with pytest.raises(ValueError, match="num_items_in_batch without labels"):  # as Trainer calls it to smooth labels
        model(IDS, num_items_in_batch=torch.tensor(24))
    tiny.checkpoint_blocks(model, reentrant=True)
    with pytest.raises(ValueError, match="with reentrant checkpointing the balance loss would be lost"):
        model(IDS, labels=IDS)
    tiny.checkpoint_blocks(model, reentrant=False)
    model(IDS, labels=IDS).loss.backward()


@pytest.mark.parametrize("recomputed", [False, True])
def test_a_model_can_be_copied_after_a_step(recomputed: bool) -> None:
    model: Any = integrate(make("llama"), LAYER, blocks=[1], balance_weight=0.5).train()
    if recomputed:
        tiny.checkpoint_blocks(model, reentrant=False)
    model(IDS, labels=IDS).loss.backward()
    copied = copy.deepcopy(model)
    torch.testing.assert_close(copied(IDS, labels=IDS).loss, model(IDS, labels=IDS).loss)


class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, at: int) -> dict[str, Tensor]:
        return {"input_ids": IDS[at % 3], "labels": IDS[at % 3], "not_for_the_model": torch.tensor(0)}


def test_trainer_trains_a_model_with_our_layers(tmp_path: Path) -> None:
    model: Any = integrate(make("llama"), LAYER)
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=12,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=0.03,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        logging_steps=1,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Rows())
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]
    trainer.save_model(str(tmp_path / "saved"))
    torch.testing.assert_close(logits(load_integrated(tmp_path / "saved")), logits(model))


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="multi_head has dim=24, the model hidden_size=16"):
        integrate(make("llama"), multi_head_moe(dim=24, num_experts=4, moe_heads=2, expert_dim=12))
    with pytest.raises(ValueError, match="block 7 has no feed-forward network; choose from 0 to 3"):
        integrate(make("llama"), LAYER, blocks=[7])
    for layer, blocks in ((LAYER, []), ({}, None)):
        with pytest.raises(ValueError, match="no block is named, so nothing would be replaced"):
            integrate(make("llama"), layer, blocks=blocks)
    router = DotProductRouterConfig(dim=DIM, num_experts=4)
    chooses = ExpertChoiceConfig(router=router, experts=ExpertsConfig(dim=DIM, num_experts=4, expert_dim=8))
    with pytest.raises(ValueError, match="looking at later tokens"):
        integrate(make("llama"), chooses)
    done: Any = integrate(make("llama"), LAYER)
    with pytest.raises(ValueError, match="in which nothing is replaced yet"):
        integrate(done, LAYER)
    with pytest.raises(ValueError, match="is no dense network that is known"):
        upcycle(make("mixtral"), num_experts=4)
    with pytest.raises(ValueError, match="has MoE layers already; give a dense one"):
        upcycle(upcycle(make("ours"), num_experts=4), num_experts=4)
    with pytest.raises(ValueError, match="every=9 leaves none of 4 blocks"):
        upcycle(make("llama"), num_experts=4, every=9)
    with pytest.raises(ValueError, match="heads=3 does not divide dim=16"):
        upcycle(make("llama"), num_experts=4, heads=3)
    limited: Any = make("llama")
    limited.model.layers[1].mlp.forward = lambda x, plain=limited.model.layers[1].mlp.forward: 0.5 * plain(x)
    with pytest.raises(ValueError, match="LlamaMLP does more than its matrices and its activation say"):
        upcycle(limited, num_experts=4, every=2)
    with pytest.raises(ValueError, match="leave projections=True"):
        upcycle(make("llama"), num_experts=4, keep="shared", projections=False)


def test_blocks_beside_a_layer_for_each_block_are_refused_and_not_passed_over() -> None:
    with pytest.raises(ValueError, match="leave `blocks` out, or give one layer for all"):
        integrate(make("llama"), {1: LAYER, 3: LAYER}, blocks=[1])


@pytest.mark.parametrize("weight", [-0.01, float("nan"), float("inf")])
def test_a_weight_that_would_reward_or_poison_the_balance_loss_is_refused(weight: float) -> None:
    model = make("llama")
    with pytest.raises(ValueError, match=r"balance_weight=\S+ is not allowed"):
        integrate(model, LAYER, balance_weight=weight)
    assert not hasattr(model.config, "integrated")


def test_in_the_place_of_a_quantised_network_a_layer_has_the_models_own_type() -> None:
    model = make("llama").bfloat16()
    for part in model.model.layers[1].mlp.children():
        if isinstance(part, nn.Linear):
            part.weight = nn.Parameter(part.weight.to(torch.int8), requires_grad=False)
    integrate(model, LAYER, blocks=[1])
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert logits(model).isfinite().all()


def test_networks_that_take_or_give_more_than_hidden_states_are_refused() -> None:
    """GPT-OSS's mixtures give scores too, and a batch of two would be taken for the two; Bloom's take the residual."""
    mixture = GptOssConfig(**SIZES, head_dim=8, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2)
    bloom = BloomConfig(vocab_size=VOCABULARY, hidden_size=DIM, n_layer=2, n_head=2)
    for model in (GptOssForCausalLM(mixture), BloomForCausalLM(bloom)):
        before = logits(model)
        with pytest.raises(ValueError, match=r"0\.mlp \(\w+MLP\) takes or gives more than hidden states"):
            integrate(model, LAYER)
        assert torch.equal(logits(model), before)


def test_trying_a_network_out_draws_nothing_and_takes_its_own_type() -> None:
    model = make("gpt2").train()
    model.transformer.h[1].mlp.double()
    before = torch.random.get_rng_state()
    _check_call("a network", model.transformer.h[1].mlp, DIM)
    assert torch.equal(torch.random.get_rng_state(), before) and model.transformer.h[1].mlp.training


def test_our_layers_are_in_the_models_mode() -> None:
    switching = switch(DIM, 4, expert_dim=8)
    model: Any = integrate(make("llama").eval(), switching)
    assert not any(part.training for part in model.modules())
    assert torch.equal(model(IDS).logits, model(IDS).logits), "nothing is drawn or dropped in evaluation"
    trained: Any = integrate(make("llama").train(), switching)
    assert all(part.training for part in trained.modules() if list(part.parameters()))


def test_a_folder_without_our_layers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no readable config"):
        load_integrated(tmp_path / "none")
    make("llama").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="in which nothing is integrated; load it as it is"):
        load_integrated(tmp_path)


# ---- upcycle --------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"projections": False}, {"every": 2, "router": XMoERouterConfig}], ids=str)
@pytest.mark.parametrize("family", DENSE)
def test_without_heads_an_upcycled_model_is_the_function_that_it_was(family: str, options: dict[str, Any]) -> None:
    before = logits(make(family))
    model: Any = upcycle(make(family), num_experts=4, **options)
    assert sum("router" in name for name, _ in model.named_parameters()) >= (2 if "every" in options else 4)
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", DENSE)
def test_beside_its_dense_network_a_model_with_heads_is_the_function_that_it_was(family: str) -> None:
    before = logits(make(family))
    model: Any = upcycle(make(family), num_experts=4, heads=4, keep="shared")
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)
    model.train()
    model(IDS, labels=IDS).loss.backward()
    merges = [p.grad for name, p in model.named_parameters() if "merge.weight" in name]
    assert len(merges) == 4 and all(grad is not None and grad.norm() > 0 for grad in merges)  # they leave 0


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_with_heads_an_expert_starts_as_the_part_of_its_slice(family: str) -> None:
    dense = make(family)
    mlp = dense.get_submodule(feed_forward_places(dense)[0])
    x = torch.randn(5, DIM)
    halves = torch.zeros(5, DIM)
    with torch.no_grad():  # the part of slice i reads x with all other slices at 0, and of its output slice i is kept
        for i in range(2):
            own = slice(8 * i, 8 * i + 8)
            halves[:, own] = mlp(torch.zeros(5, DIM).index_copy(1, torch.arange(8 * i, 8 * i + 8), x[:, own]))[:, own]
    model: Any = upcycle(make(family), num_experts=2, heads=2, top_k=1)
    layer: Any = model.get_submodule(feed_forward_places(model)[0]).layer  # pyright: ignore
    with torch.no_grad():
        output = layer(x)
        for row in range(5):
            for i in range(2):
                expert = int(output.routing.index[row, i, 0])
                if expert == i:
                    own = slice(8 * i, 8 * i + 8)
                    torch.testing.assert_close(output.hidden[row, own], halves[row, own], rtol=0, atol=1e-5)
    assert any(int(e) == i for row in output.routing.index[..., 0] for i, e in enumerate(row))


def test_an_upcycled_model_of_ours_goes_on_in_our_loop(tmp_path: Path) -> None:
    text = tiny.text(tmp_path / "packed")
    dense = tiny.model("dense")
    config = TrainingConfig(steps=6, batch_sequences=2, length=16, learning_rate=3e-3, evaluations=1)
    mixture: Any = upcycle(dense, num_experts=4, heads=2, keep="shared", every=2)
    assert isinstance(mixture, MHMoEForCausalLM) and mixture.config.is_moe_block(1)
    state = train(mixture, text, config, seed=1)
    assert state is not None and state.curve[-1]["task_loss"] < 10 and state.curve[-1]["balance_loss"] > 0


def test_an_upcycled_model_of_ours_keeps_how_the_dense_one_is_used() -> None:
    dense: Any = MHMoEForCausalLM(tiny.config("dense", moe_offset=0)).eval()
    dense.set_attn_implementation("eager")
    dense.generation_config.max_new_tokens = 7
    dense.model.embed_tokens.weight.requires_grad_(False)
    mixture: Any = upcycle(dense, num_experts=4, every=2)
    assert not mixture.training and mixture.config._attn_implementation == "eager"
    assert mixture.generation_config.max_new_tokens == 7
    assert not mixture.model.embed_tokens.weight.requires_grad
    assert all(parameter.requires_grad for name, parameter in mixture.named_parameters() if "layers" in name)
    assert mixture.config.is_moe_block(1) and not mixture.config.is_moe_block(0)


def test_lora_trains_the_experts_alone_and_merges_into_them() -> None:
    peft = pytest.importorskip("peft")
    model: Any = upcycle(make("llama"), num_experts=4, every=2)
    before = logits(model)
    names = [name for name, _ in model.named_parameters() if name.endswith(("experts.up_proj", "experts.down_proj"))]
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=[], target_parameters=names))
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * len(names) == 8 and all("lora" in name for name in trained)
    torch.testing.assert_close(logits(adapted), before)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.05)
    adapted.train()
    history: list[float] = []
    for _ in range(8):
        loss = adapted(input_ids=IDS, labels=IDS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < history[0]
    after = logits(adapted)
    merged: nn.Module = adapted.merge_and_unload()
    torch.testing.assert_close(logits(merged), after, rtol=0, atol=1e-5)
    assert not torch.allclose(after, before)


def test_an_upcycled_model_is_saved_and_loaded(tmp_path: Path) -> None:
    model: Any = upcycle(make("gpt2"), num_experts=4, heads=2, keep="shared")
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(load_integrated(tmp_path)), logits(model), rtol=0, atol=0)


def test_a_plain_mixture_has_no_head_and_merge_layers() -> None:
    model: Any = upcycle(make("ours"), num_experts=4, projections=False)
    assert all(SparseMoEConfig.kind == model.config.layer(block).kind for block in range(4))
