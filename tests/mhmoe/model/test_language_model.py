"""The language model: its sizes, its losses and routing apart, attention and generation."""

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mhmoe.layers import dispatch
from mhmoe.layers.experts import FeedForwardConfig
from tests import reference
from tests.small import DIM, every_system, make, make_config, tokens

# Sizes

OPTIONS: list[dict[str, Any]] = [
    {},
    {"tie_word_embeddings": False, "norm": "layer", "attention_bias": True, "num_hidden_layers": 3},
    {"moe_every": 1, "feed_forward": FeedForwardConfig(dim=DIM, inner_dim=20, activation="swiglu").to_dict()},
]


@pytest.mark.parametrize("options", OPTIONS, ids=["", "untied, layer norm, biases", "every block"])
@every_system
def test_parameters_and_flops_counted_from_the_config_are_those_of_the_model(
    system: str, options: dict[str, Any]
) -> None:
    model = make(system, attention="eager", **options)  # torch does not count its fused kernel for CPUs
    assert sum(p.numel() for p in model.parameters()) == model.config.parameters()

    def product(x: tuple[int, int], weight: tuple[int, int, int], *_: Any, **__: Any) -> int:
        return 2 * x[0] * x[1] * weight[1]

    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.mhmoe.grouped_linear: product})
    # Rows that fill up an expert's share are the fast product's overhead, not the model's work.
    with patch.object(dispatch, "BLOCK", 1), counter:
        model(tokens(3, 8))
    assert counter.get_total_flops() == 3 * 8 * model.config.flops_per_token(8)


def test_active_parameters_leave_out_the_experts_that_one_token_does_not_choose() -> None:
    config = make_config("xmoe")
    one_expert = 2 * DIM * 4 * DIM
    assert config.active_parameters() == config.parameters() - 3 * one_expert
    dense = make_config("dense")
    assert dense.active_parameters() == dense.parameters()


def test_moe_layers_stand_in_every_second_block_and_the_last() -> None:
    config = make_config("xmoe", num_hidden_layers=6)
    assert [config.is_moe_block(block) for block in range(6)] == [False, True] * 3


@pytest.mark.parametrize(
    ("every", "offset", "blocks"),
    [(2, None, [1, 3, 5]), (2, 1, [1, 3, 5]), (2, 0, [0, 2, 4]), (1, 1, [1, 2, 3, 4, 5]), (4, 0, [0, 4]), (9, 5, [5])],
)
def test_an_offset_says_which_block_is_the_first_moe_block(every: int, offset: int | None, blocks: list[int]) -> None:
    config = make_config("xmoe", num_hidden_layers=6, moe_every=every, moe_offset=offset)
    assert [block for block in range(6) if config.is_moe_block(block)] == blocks
    assert sum(
        p.numel() for p in make("xmoe", num_hidden_layers=6, moe_every=every, moe_offset=offset).parameters()
    ) == (config.parameters())


def test_the_offset_came_later_and_changes_no_earlier_fingerprint() -> None:
    assert "moe_offset" not in make_config("xmoe").identity()
    assert make_config("xmoe", moe_offset=0).identity()["moe_offset"] == 0
    with pytest.raises(ValueError, match=r"moe_offset=2 is beyond num_hidden_layers=2, .*; choose at most 1"):
        make_config("xmoe", moe_offset=2)


# Losses and routing


def test_the_loss_is_the_task_loss_plus_the_weighted_mean_of_the_balance_losses() -> None:
    model, ids = make("xmoe", num_hidden_layers=4, balance_weight=0.25).train(), tokens()
    output = model(ids, labels=ids, output_routing=True)
    nll = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert torch.allclose(output.task_loss, nll)
    balances = [
        reference.balance_loss(
            list(r.probabilities.flatten(0, -2)), r.index.flatten(0, -2).tolist(), [True] * ids.numel()
        )
        for r in output.routing
    ]
    assert len(balances) == 2
    assert output.balance_loss.item() == pytest.approx(sum(b.item() for b in balances) / 2, rel=1e-5)
    assert torch.allclose(output.loss, output.task_loss + 0.25 * output.balance_loss)


def test_in_evaluation_the_loss_is_the_task_loss_alone_so_that_its_exponential_is_the_perplexity() -> None:
    model, ids = make("xmoe"), tokens()
    output = model(ids, labels=ids)
    assert output.balance_loss > 0.5
    assert torch.equal(output.loss, output.task_loss)


def test_a_dense_model_has_no_balance_loss_and_no_routing() -> None:
    model, ids = make("dense"), tokens()
    output = model(ids, labels=ids, output_routing=True)
    assert output.balance_loss is None and output.routing == ()
    assert torch.equal(output.loss, output.task_loss)


def test_labels_of_minus_100_do_not_count() -> None:
    model, ids = make(), tokens(1, 9)
    labels = ids.clone()
    labels[:, 5:] = -100
    assert torch.allclose(model(ids, labels=labels).task_loss, model(ids[:, :5], labels=ids[:, :5]).task_loss)


def test_routing_is_returned_on_request_with_the_axes_of_the_batch() -> None:
    model, ids = make("mhmoe parameters", num_hidden_layers=4), tokens(2, 7)
    assert model(ids).routing is None
    output = model(ids, output_routing=True)
    assert len(output.routing) == 2
    for routing in output.routing:
        assert routing.index.shape == routing.weight.shape == routing.kept.shape == (2, 7, 3, 1)
        assert routing.probabilities.shape == (2, 7, 3, 4)


def test_padded_tokens_are_not_routed_and_not_counted() -> None:
    model, ids = make("mhmoe parameters"), tokens(2, 8)
    mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    other = torch.where(mask.bool(), ids, 60 - ids)
    output, output_other = (model(i, attention_mask=mask, output_routing=True) for i in (ids, other))
    assert torch.equal(output.routing[0].kept[..., 0, 0], mask.bool())
    assert torch.equal(output.balance_loss, output_other.balance_loss)
    assert torch.allclose(output.logits[mask.bool()], output_other.logits[mask.bool()], atol=1e-5)
    alone = [model(ids[:1]), model(ids[1:, :5])]
    assert torch.allclose(output.logits[1, :5], alone[1].logits[0], atol=1e-4)
    assert not torch.allclose(output.balance_loss, model(ids).balance_loss, atol=1e-6)


# Attention


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_no_token_sees_a_later_one(implementation: str) -> None:
    model, ids = make(attention=implementation), tokens(1, 9)
    assert model.config._attn_implementation == implementation
    changed = ids.clone()
    changed[:, 6:] = 61 - changed[:, 6:]
    for mask in (None, torch.ones_like(ids)):
        before, after = (model(i, attention_mask=mask).logits for i in (ids, changed))
        assert torch.allclose(before[:, :6], after[:, :6], atol=1e-5)
        assert not torch.allclose(before[:, 6:], after[:, 6:], atol=1e-2)


def test_attention_implementations_agree() -> None:
    ids = tokens(2, 9)
    mask = torch.tensor([[1] * 9, [0] * 4 + [1] * 5])
    sdpa, eager = make(attention="sdpa"), make(attention="eager")
    for given in (None, torch.ones_like(ids), mask):
        ours, theirs = (m(ids, attention_mask=given).logits for m in (sdpa, eager))
        seen = mask.bool() if given is mask else torch.ones_like(ids, dtype=torch.bool)
        assert torch.allclose(ours[seen], theirs[seen], atol=1e-4)


def test_positions_count_by_their_distance_alone() -> None:
    model, ids = make(), tokens(1, 9)
    positions = torch.arange(9).unsqueeze(0)
    here, shifted, stretched = (model(ids, position_ids=p).logits for p in (positions, positions + 20, positions * 2))
    assert torch.allclose(here, shifted, atol=1e-4)
    assert not torch.allclose(here, stretched, atol=1e-2)
    assert torch.equal(here, model(ids).logits)


def test_embeddings_given_are_as_good_as_tokens() -> None:
    model, ids = make(), tokens()
    assert torch.equal(model(inputs_embeds=model.get_input_embeddings()(ids)).logits, model(ids).logits)
    with pytest.raises(ValueError, match="give exactly one of input_ids and inputs_embeds"):
        model()


# Generation


@pytest.mark.parametrize("system", ["dense", "xmoe", "mhmoe parameters"])
def test_generating_with_the_cache_gives_what_generating_without_gives(system: str) -> None:
    model, ids = make(system), tokens(2, 5)
    outputs = [
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=8,
            do_sample=False,
            use_cache=use_cache,
            return_dict_in_generate=True,
            output_logits=True,
        )
        for use_cache in (True, False)
    ]
    with_cache, without = outputs
    assert torch.equal(with_cache.sequences, without.sequences)
    assert with_cache.sequences.shape == (2, 13)
    for ours, theirs in zip(with_cache.logits, without.logits, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_a_sequence_cut_in_two_through_the_cache_gives_the_same_logits() -> None:
    model, ids = make(), tokens(2, 9)
    first = model(ids[:, :4], use_cache=True)
    second = model(ids[:, 4:], past_key_values=first.past_key_values)
    assert torch.allclose(torch.cat([first.logits, second.logits], dim=1), model(ids).logits, atol=1e-4)


def test_a_left_padded_batch_generates_what_each_prompt_generates_alone() -> None:
    model = make("mhmoe parameters")
    short, long = tokens(1, 4), tokens(1, 7)
    batch = torch.cat([torch.cat([torch.zeros(1, 3, dtype=torch.long), short], dim=1), long])
    mask = torch.tensor([[0] * 3 + [1] * 4, [1] * 7])
    together = model.generate(batch, attention_mask=mask, max_new_tokens=6, do_sample=False)
    for prompt, row in ((short, together[0]), (long, together[1])):
        alone = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, do_sample=False)
        assert torch.equal(row[7:], alone[0, prompt.shape[1] :])
    padded = model(batch, attention_mask=mask).logits[0, 3:]
    assert torch.allclose(padded, model(short).logits[0], atol=1e-4)


def test_only_the_logits_asked_for_are_computed() -> None:
    model, ids = make(), tokens()
    whole = model(ids).logits
    assert torch.allclose(model(ids, logits_to_keep=2).logits, whole[:, -2:], atol=1e-6)
    assert torch.allclose(model(ids, logits_to_keep=torch.tensor([0, 3])).logits, whole[:, [0, 3]], atol=1e-6)
