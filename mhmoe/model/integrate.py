"""A layer of this package where a plain feed-forward network stood, as in another library's model.

losses: list[Tensor] = []
for block in llama.model.layers:
    block.mlp = HiddenOnly(MultiHeadMoE(dim=256, num_experts=8, expert_dim=512), losses)

losses.clear()
loss = llama(input_ids, labels=labels).loss
loss = loss + 0.01 * torch.stack(losses).mean()
"""

from jaxtyping import Float
from torch import Tensor, is_grad_enabled, nn

from mhmoe.layers.experts import FFNOutput


class HiddenOnly(nn.Module):
    """`layer(x).hidden`, of the shape of x: (..., dim). Balance losses go to the list that the caller gave.

    A forward adds one to `losses`; the caller empties it before each step. Without gradients nothing is added,
    so that evaluation and generation leave nothing behind. Gradient checkpointing wants `use_reentrant=False`:
    the other kind makes its forward without gradients. Which tokens are padding such a model does not say, so
    that they are routed and count in the balance.
    """

    def __init__(self, layer: nn.Module, losses: list[Tensor]) -> None:
        super().__init__()
        self.layer, self.losses = layer, losses

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        output: FFNOutput = self.layer(x)
        if output.balance_loss is not None and is_grad_enabled():
            self.losses.append(output.balance_loss)
        return output.hidden
