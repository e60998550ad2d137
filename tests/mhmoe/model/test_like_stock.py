"""What a stock causal model of transformers answers, ours answers alike, or refuses in one line.

A dense model of ours with RMS norms and SwiGLU is a Llama: the twin has its weights, so that answers
must be equal in numbers. Calls that stock models take without using them are refused or answered, too.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, set_seed
from transformers.cache_utils import Cache
from transformers.utils.generic import ModelOutput

from mhmoe.layers.experts import FeedForwardConfig
from mhmoe.model.outputs import CACHE
from tests.small import DIM, make, tokens

INNER = 20


def ours(attention: str = "sdpa") -> Any:
    feed_forward = FeedForwardConfig(dim=DIM, inner_dim=INNER, activation="swiglu")
    options: dict[str, Any] = {"tie_word_embeddings": False, "eos_token_id": 0, "feed_forward": feed_forward}
    return make("dense", attention=attention, **options)


def twin(model: Any) -> Any:
    """A Llama that computes what `model` does."""
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=DIM,
        intermediate_size=INNER,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    kernel = model.config._attn_implementation
    llama: Any = AutoModelForCausalLM.from_config(config, attn_implementation=kernel).eval()
    state = {
        "model.embed_tokens.weight": model.model.scale * model.model.embed_tokens.weight,
        "model.norm.weight": model.model.norm.weight,
        "lm_head.weight": model.lm_head.weight,
    }
    for i, block in enumerate(model.model.layers):
        layer = f"model.layers.{i}"
        parts = block.attention.qkv_proj.weight.chunk(3)
        state |= {f"{layer}.self_attn.{n}_proj.weight": part for n, part in zip("qkv", parts, strict=True)}
        gate, up = block.feed_forward.up_proj.weight.chunk(2)
        state |= {
            f"{layer}.self_attn.o_proj.weight": block.attention.o_proj.weight,
            f"{layer}.input_layernorm.weight": block.attention_norm.weight,
            f"{layer}.post_attention_layernorm.weight": block.feed_forward_norm.weight,
            f"{layer}.mlp.gate_proj.weight": gate,
            f"{layer}.mlp.up_proj.weight": up,
            f"{layer}.mlp.down_proj.weight": block.feed_forward.down_proj.weight,
        }
    llama.load_state_dict({name: value.detach().clone() for name, value in state.items()})
    return llama


def assert_alike(ours: Any, stock: Any, where: str = "answer") -> None:
    """Everything that the stock answer has, ours has too, and in the same place."""
    if isinstance(stock, Tensor):
        assert ours.dtype == stock.dtype and ours.shape == stock.shape, where
        exact = not stock.is_floating_point() or stock.dtype.itemsize < 4 or torch.equal(ours, stock)
        assert exact or torch.allclose(ours, stock, atol=1e-4), where
    elif isinstance(stock, Cache):
        assert ours.get_seq_length() == stock.get_seq_length(), where
    elif isinstance(stock, ModelOutput):
        for name in stock:
            assert name in ours, f"{where} has no {name}"
            assert_alike(ours[name], stock[name], f"{where}.{name}")
    elif isinstance(stock, tuple | list):
        assert type(ours) is type(stock) and len(ours) >= len(stock), where
        for i, (one, other) in enumerate(zip(ours, stock, strict=False)):
            assert_alike(one, other, f"{where}[{i}]")
    else:
        assert ours == stock, where


IDS = torch.randint(1, 61, (2, 9), generator=torch.Generator().manual_seed(0))
LABELS = torch.where(torch.arange(9) < 6, IDS, -100)
RIGHT = torch.tensor([[1] * 9, [1] * 6 + [0] * 3])
LEFT = RIGHT.flip(1)
ARANGE = torch.arange(9).unsqueeze(0)
PACKED = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 4, 5, 6, 0, 1]])
TREE = torch.tril(torch.ones(2, 1, 9, 9, dtype=torch.bool)) & (torch.arange(9) != 3)[:, None].logical_or(
    torch.arange(9) != 2
)


def padded(output: Any, mask: Tensor) -> Tensor:
    """Logits at tokens: at padding they are whatever a kernel makes of it."""
    return output.logits[mask.bool()]


def configured(model: Any, **values: Any) -> Any:
    changed = copy.deepcopy(model)
    for name, value in values.items():
        setattr(changed.config, name, value)
    return changed


def continued(model: Any) -> Any:
    first = model(IDS[:, :4])
    return model(IDS[:, 4:], attention_mask=torch.ones_like(IDS), **{CACHE: first[CACHE]}).logits


FORWARD: dict[str, Callable[[Any], Any]] = {
    "tokens alone": lambda m: m(IDS),
    "by position": lambda m: m(IDS, torch.ones_like(IDS), ARANGE),
    "labels": lambda m: m(IDS, labels=LABELS),
    "shifted labels": lambda m: m(IDS, labels=IDS, shift_labels=LABELS),
    "number of labels in all": lambda m: m(IDS, labels=LABELS, num_items_in_batch=torch.tensor(40)),
    "as a tuple": lambda m: m(IDS, labels=LABELS, return_dict=False),
    "base model": lambda m: m.model(IDS),
    "base model as a tuple": lambda m: m.model(IDS, return_dict=False),
    "base model, tuple by config": lambda m: configured(m, return_dict=False).model(IDS),
    "embeddings": lambda m: m(inputs_embeds=m.get_input_embeddings()(IDS)),
    "nothing": lambda m: m(),
    "both": lambda m: m(IDS, inputs_embeds=m.get_input_embeddings()(IDS)),
    "hidden states": lambda m: m(IDS, output_hidden_states=True),
    "hidden states by config": lambda m: configured(m, output_hidden_states=True)(IDS),
    "no hidden states": lambda m: configured(m, output_hidden_states=True)(IDS, output_hidden_states=False),
    "attentions": lambda m: m(IDS, output_attentions=True),
    "attentions by config": lambda m: configured(m, output_attentions=True)(IDS),
    "last logits": lambda m: m(IDS, logits_to_keep=2),
    "some logits": lambda m: m(IDS, logits_to_keep=torch.tensor([1, 4])),
    "no cache": lambda m: m(IDS, use_cache=False),
    "no cache by config": lambda m: configured(m, use_cache=False)(IDS),
    "going on from the cache": continued,
    "padding on the right": lambda m: padded(m(IDS, attention_mask=RIGHT), RIGHT),
    "padding on the left": lambda m: padded(m(IDS, attention_mask=LEFT), LEFT),
    "mask of four axes": lambda m: m(IDS, attention_mask=TREE, use_cache=False),
    "positions": lambda m: m(IDS, position_ids=ARANGE + 5),
    "positions with gaps": lambda m: m(IDS, position_ids=2 * ARANGE, use_cache=False),
    "documents": lambda m: m(IDS, position_ids=PACKED, use_cache=False),
    "documents with a cache": lambda m: m(IDS, position_ids=PACKED, use_cache=True),
    "documents and a mask": lambda m: m(IDS, position_ids=PACKED, attention_mask=torch.ones_like(IDS)),
    "documents' bounds": lambda m: m(
        IDS,
        position_ids=PACKED,
        cu_seq_lens_q=torch.tensor([0, 3, 7, 9]),
        cu_seq_lens_k=torch.tensor([0, 3, 7, 9]),
        max_length_q=4,
        max_length_k=4,
        use_cache=False,
    ),
    "document numbers": lambda m: m(IDS, position_ids=PACKED, seq_idx=PACKED, use_cache=False),
    "arguments of the past": lambda m: m(IDS, token_type_ids=0 * IDS, cache_position=ARANGE[0]),
    "a misspelt argument": lambda m: m(IDS, atention_mask=RIGHT),
    "attention both ways": lambda m: m(IDS, is_causal=False),
    "router's logits": lambda m: m(IDS, output_router_logits=True),
    "longer than the positions": lambda m: m(IDS.repeat(1, 5)),
    "tokens beyond the vocabulary": lambda m: m(IDS + 60),
    "tokens below 0": lambda m: m(-IDS),
    "no rows": lambda m: m(IDS[:0]),
    "no tokens": lambda m: m(IDS[:, :0]),
    "double precision": lambda m: copy.deepcopy(m).double()(IDS),
    "the other kernel": lambda m: (m := copy.deepcopy(m), m.set_attn_implementation("eager"), m(IDS))[-1],
}
REFUSED = {"a misspelt argument", "attention both ways", "router's logits"}  # of which stock models answer all


def generated(**options: Any) -> Callable[[Any], Any]:
    def generate(model: Any) -> Any:
        set_seed(1)
        inputs: dict[str, Any] = {"inputs": IDS, "attention_mask": torch.ones_like(IDS), "do_sample": False}
        return model.generate(**inputs | {"max_new_tokens": 4} | options)

    return generate


WHOLE: dict[str, Any] = {"return_dict_in_generate": True}
GENERATE: dict[str, Callable[[Any], Any]] = {
    "greedily": generated(),
    "sampled": generated(do_sample=True, temperature=0.7),
    "without a cache": generated(use_cache=False),
    "into a static cache": generated(cache_implementation="static"),
    "beams": generated(num_beams=3, num_return_sequences=2),
    "padded": generated(attention_mask=LEFT),
    "from embeddings": lambda m: m.generate(
        inputs_embeds=m.get_input_embeddings()(IDS), max_new_tokens=4, do_sample=False
    ),
    "guessing ahead": generated(inputs=IDS[:1], attention_mask=RIGHT[:1], prompt_lookup_num_tokens=2),
    "prompt in parts": generated(prefill_chunk_size=4),
    "all that is asked for": generated(output_hidden_states=True, output_logits=True, output_scores=True, **WHOLE),
    "attentions": generated(output_attentions=True, **WHOLE),
    "a misspelt argument": generated(max_new_tokns=4),
}


def answer(call: Callable[[Any], Any], model: Any) -> tuple[Any, Exception | None]:
    try:
        with torch.no_grad():
            return call(model), None
    except (ValueError, TypeError, RuntimeError, AttributeError, IndexError) as error:
        return None, error


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", [*FORWARD, *(f"generate {name}" for name in GENERATE)])
def test_a_call_is_answered_as_by_a_stock_model_or_refused_in_one_line(name: str, attention: str) -> None:
    call = GENERATE[name.removeprefix("generate ")] if name.startswith("generate ") else FORWARD[name]
    model = ours(attention)
    (stock, stock_error), (own, own_error) = answer(call, twin(model)), answer(call, model)
    if own_error is not None:
        assert isinstance(own_error, ValueError | TypeError) and "\n" not in str(own_error)
        assert stock_error is not None or name in REFUSED
    elif stock_error is None:
        assert_alike(own, stock)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("positions", ["documents", "documents with a cache", "tokens alone"])
def test_gradients_over_documents_in_a_row_are_those_of_a_stock_model(positions: str, attention: str) -> None:
    model = ours(attention)
    llama = twin(model)
    for one in (model, llama):
        one.zero_grad()
        torch.nn.functional.cross_entropy(FORWARD[positions](one).logits.flatten(0, 1), IDS.flatten()).backward()
    ours_by_layer = [block.attention.qkv_proj.weight.grad for block in model.model.layers]
    for own, layer in zip(ours_by_layer, llama.model.layers, strict=True):
        stock = [getattr(layer.self_attn, f"{n}_proj").weight.grad for n in "qkv"]
        assert torch.allclose(own, torch.cat(stock), atol=1e-5)
    assert torch.allclose(
        model.model.embed_tokens.weight.grad, model.model.scale * llama.model.embed_tokens.weight.grad, atol=1e-5
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_documents_in_a_row_do_not_see_each_other(attention: str) -> None:
    model, row = make("mhmoe compute", attention=attention), torch.cat([tokens(1, 4), tokens(1, 5)], dim=1)
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
    together = model(row, position_ids=positions, use_cache=False).logits
    apart = torch.cat([model(row[:, :4]).logits, model(row[:, 4:]).logits], dim=1)
    assert torch.allclose(together, apart, atol=1e-5)


def loaded(model: Any, folder: Path, **options: Any) -> Any:
    model.save_pretrained(folder, max_shard_size="20KB")
    return AutoModelForCausalLM.from_pretrained(folder, **options)


SAVED: dict[str, Callable[[Any, Path], Any]] = {
    "as it is": lambda m, f: loaded(m, f)(IDS),
    "in half precision": lambda m, f: loaded(m, f, dtype=torch.bfloat16).dtype,
    "in the precision of the folder": lambda m, f: loaded(copy.deepcopy(m).half(), f, dtype="auto").dtype,
    "with another kernel": lambda m, f: loaded(m, f, attn_implementation="eager")(IDS, output_attentions=True),
    "with little memory": lambda m, f: loaded(m, f, low_cpu_mem_usage=True)(IDS),
    "with a report": lambda m, f: {k: len(v) for k, v in loaded(m, f, output_loading_info=True)[1].items()},
    "without its output layer": lambda m, f: (loaded(m, f), AutoModel.from_pretrained(f)(IDS))[1],
    "from its base model": lambda m, f: (m.model.save_pretrained(f), AutoModel.from_pretrained(f)(IDS))[1],
    "a config alone": lambda m, f: type(AutoModel.from_config(m.config)) is type(m.model),
    "more tokens": lambda m, f: m.resize_token_embeddings(70).weight.shape and loaded(m, f).config.vocab_size,
    "fewer tokens": lambda m, f: m.resize_token_embeddings(50).weight.shape and loaded(m, f)(IDS % 50),
    "other embeddings": lambda m, f: (m.set_input_embeddings(torch.nn.Embedding(61, DIM)), loaded(m, f))[1] is not None,
    "its parts": lambda m, f: [m.get_input_embeddings().weight.shape, m.get_output_embeddings().weight.shape],
    "an argument of nobody": lambda m, f: loaded(m, f, of_nobody=1),
}


@pytest.mark.parametrize("name", SAVED)
def test_a_model_is_saved_changed_and_loaded_as_a_stock_one(name: str, tmp_path: Path) -> None:
    model = ours()
    llama: LlamaForCausalLM = twin(model)
    stock, stock_error = answer(lambda m: SAVED[name](m, tmp_path / "stock"), llama)
    own, own_error = answer(lambda m: SAVED[name](m, tmp_path / "ours"), model)
    assert (own_error is None) == (stock_error is None), own_error or stock_error
    assert_alike(own, stock)
