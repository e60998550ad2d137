"""Generation by transformers: the routing of what is generated, prompts of unequal length, the text pipeline."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, StaticCache, pipeline

from mhmoe.data.tokenizer import as_transformers, train_tokenizer
from tests.small import make, tokens

TEXTS = ["the model writes words", "a function that returns the number of words in a text"]


def generate(model: Any, ids: Any, **options: Any) -> Any:
    fixed: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "return_dict_in_generate": True}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **fixed | options)


@pytest.mark.parametrize("use_cache", [True, False])
def test_the_routing_of_generated_tokens_is_that_of_one_forward_over_them(use_cache: bool) -> None:
    model, ids = make("mhmoe parameters", num_hidden_layers=4), tokens(2, 6)
    result = generate(model, ids, output_routing=True, use_cache=use_cache)
    assert len(result.routing) == 5 and all(len(step) == 2 for step in result.routing)
    whole = model(result.sequences[:, :-1], output_routing=True).routing
    for layer, routing in enumerate(whole):
        for part, expected in enumerate(routing):
            steps = [step[layer][part] for step in result.routing]
            ours = torch.cat(steps, dim=1) if use_cache else steps[-1]
            assert ours.shape == expected.shape and torch.allclose(ours, expected, atol=1e-5)
    lengths = [step[0].index.shape[1] for step in result.routing]
    assert lengths == ([6, 1, 1, 1, 1] if use_cache else [6, 7, 8, 9, 10])


def test_beams_are_routed_in_the_order_in_which_they_are_computed() -> None:
    model, ids = make("xmoe"), tokens(2, 6)
    result = generate(model, ids, output_routing=True, num_beams=3, output_hidden_states=True)
    shapes = [step[0].index.shape[:2] for step in result.routing]
    assert shapes == [step[0].shape[:2] for step in result.hidden_states]


def test_asking_for_routing_changes_no_token_and_without_it_there_is_none() -> None:
    model, ids = make("xmoe"), tokens(2, 6)
    plain = generate(model, ids)
    assert torch.equal(plain.sequences, generate(model, ids, output_routing=True).sequences)
    assert "routing" not in plain


def test_routing_without_a_place_for_it_is_refused() -> None:
    with pytest.raises(ValueError, match="output_routing=True needs return_dict_in_generate=True"):
        generate(make("xmoe"), tokens(2, 6), output_routing=True, return_dict_in_generate=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its tokenizer, as a finished run leaves them."""
    path = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(TEXTS * 20, 270)
    torch.manual_seed(0)
    make("mhmoe compute", vocab_size=270, eos_token_id=0).save_pretrained(path)
    as_transformers(tokenizer).save_pretrained(path)
    return path


def test_prompts_of_a_padded_batch_go_on_as_each_does_alone(folder: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.padding_side == "left"

    def written(prompts: list[str]) -> list[str]:
        inputs = tokenizer(prompts, padding=True, return_tensors="pt")
        return tokenizer.batch_decode(model.generate(**inputs, max_new_tokens=8, do_sample=False))

    together = [text.removeprefix("<|endoftext|>" * text.count("<|endoftext|>")) for text in written(TEXTS)]
    assert together == [written([text])[0] for text in TEXTS]


def test_the_pipeline_writes_text(folder: Path) -> None:
    write = pipeline("text-generation", str(folder))
    texts = write(TEXTS, batch_size=2, max_new_tokens=4, do_sample=False)
    for prompt, (answer,) in zip(TEXTS, texts, strict=True):  # pyright: ignore[reportArgumentType]
        assert answer["generated_text"].startswith(prompt) and len(answer["generated_text"]) > len(prompt)


@pytest.mark.parametrize("whole_mask", [False, True], ids=["of what was read", "of the whole cache"])
def test_a_mask_beside_a_cache_of_fixed_size_hides_no_token_that_is_read(whole_mask: bool) -> None:
    model, ids = make("mhmoe compute"), tokens(2, 7)
    whole = model(ids, output_routing=True)
    cache, found = StaticCache(config=model.config, max_cache_len=12), []
    for begin, end in ((0, 4), (4, 5), (5, 7)):
        mask = (torch.arange(12 if whole_mask else end) < end).long().expand(2, -1)
        step = model(ids[:, begin:end], attention_mask=mask, past_key_values=cache, use_cache=True, output_routing=True)
        assert all(routing.kept.all() for routing in step.routing)
        found.append(step.logits)
    assert torch.allclose(torch.cat(found, dim=1), whole.logits, atol=1e-5)
