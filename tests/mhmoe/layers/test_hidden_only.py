"""A layer in another library's model: the hidden state goes on, the balance losses come out."""

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from mhmoe.layers.experts import FeedForwardConfig
from mhmoe.layers.multi_head import MultiHeadMoE
from mhmoe.model.integrate import HiddenOnly

IDS = torch.arange(2 * 9).view(2, 9) % 7


def llama(losses: list[Tensor]) -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=40,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            use_cache=False,
        )
    )
    for block in model.model.layers:
        layer = MultiHeadMoE(dim=16, num_experts=4, expert_dim=12, moe_heads=2)
        block.mlp = HiddenOnly(layer, losses)
    return model


def test_the_feed_forward_layers_of_a_llama_train_with_their_balance_loss() -> None:
    losses: list[Tensor] = []
    model = llama(losses)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    history: list[float] = []
    for _ in range(20):
        losses.clear()
        task = model(IDS, labels=IDS).loss
        assert len(losses) == 3
        optimizer.zero_grad()
        (task + 0.01 * torch.stack(losses).mean()).backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        history.append(task.item())
    assert history[-1] < 0.5 * history[0]


def test_the_balance_loss_alone_reaches_the_routers() -> None:
    losses: list[Tensor] = []
    model = llama(losses)
    model(IDS)
    torch.stack(losses).mean().backward()
    for block in model.model.layers:
        assert block.mlp.layer.inner.router.projection.grad.norm() > 0  # pyright: ignore


def test_the_hidden_state_is_the_layers_own() -> None:
    losses: list[Tensor] = []
    layer, x = MultiHeadMoE(dim=16, num_experts=4, expert_dim=12, moe_heads=2), torch.randn(2, 5, 16)
    output = layer(x)
    assert torch.equal(HiddenOnly(layer, losses)(x), output.hidden)
    assert torch.equal(losses[0], output.balance_loss)


def test_generation_and_layers_that_do_not_route_leave_nothing_behind() -> None:
    losses: list[Tensor] = []
    model = llama(losses).eval()
    generated = model.generate(IDS[:, :4], max_new_tokens=3, pad_token_id=0)  # pyright: ignore
    assert generated.shape == (2, 7)
    HiddenOnly(FeedForwardConfig(dim=4, inner_dim=8).build(), losses)(torch.randn(3, 4))
    assert losses == []


def test_gradient_checkpointing_collects_each_loss_with_its_gradient() -> None:
    plain_losses: list[Tensor] = []
    again_losses: list[Tensor] = []
    plain, again = llama(plain_losses), llama(again_losses).train()
    enable = getattr(again, "activation_checkpointing_enable", again.gradient_checkpointing_enable)
    enable({"use_reentrant": False})
    for model, losses in ((plain, plain_losses), (again, again_losses)):
        task = model(IDS, labels=IDS).loss
        assert len(losses) == 3
        (task + torch.stack(losses).mean()).backward()
    for ours, theirs in zip(again.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None and torch.allclose(ours.grad, theirs.grad, atol=1e-6)
