"""Switch Transformer: each token goes to one expert.

    y(x) = g_p(x) f_p(x),   p = argmax g(x),   g = softmax(x W)

Fedus, Zoph and Shazeer, arXiv 2101.03961 (January 2021), section 2: Eq. 2 with k = 1, an expert takes at most
capacity_factor * tokens / experts (Eq. 3; Table 1 tries 2.0, 1.25 and 1.0), balance loss Eq. 4 to 6 with weight 0.01.
In training the router's input is multiplied by noise (Appendix C, Table 11: input jitter). Published, Table 9: from
Switch-Base, 128 experts in every second block of T5-Base, "7B" (7.4B in Tables 7 and 8), to Switch-C, 2,048 experts in
every block, 1571B. In that table the headings of layers and experts stand over each other's numbers. Not held here:
its Switch-Large (26B) and Switch-XXL (395B).

Not published: the size of the jitter; 0.01 is that of the released configs (`router_jitter_noise`). The printed
pseudo-code adds noise to the logits instead. Switch-C's activation: Table 9 leaves its mark for a gated GELU empty, and
T5's other one is ReLU. Departures: a decoder alone, not T5's encoder and decoder; evaluation drops nothing (see
capacity.py); GELU unless told; the small initialisation of section 2.4 (variance 0.1 / inputs) is that of the router
alone, where the paper has it for all weight matrices.
"""

from baselines.counting import Published
from mhmoe.layers.activations import ActivationName
from mhmoe.layers.experts import ExpertsConfig, FeedForwardConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig
from mhmoe.layers.switch_router import SwitchRouterConfig

CAPACITY_FACTOR = 1.25


def switch(
    dim: int,
    num_experts: int,
    *,
    expert_dim: int | None = None,
    activation: ActivationName = "gelu",
    capacity_factor: float | None = CAPACITY_FACTOR,
) -> SparseMoEConfig:
    """The layer of a MoE block; experts of 4 dim unless told."""
    expert_dim = 4 * dim if expert_dim is None else expert_dim
    return SparseMoEConfig(
        router=SwitchRouterConfig(dim=dim, num_experts=num_experts),
        experts=ExpertsConfig(dim=dim, num_experts=num_experts, expert_dim=expert_dim, activation=activation),
        capacity_factor=capacity_factor,
    )


def published() -> dict[str, Published]:
    """Table 9. Blocks are the encoder's and the decoder's, whose blocks have two attention layers."""
    return {
        "Switch-Base": Published(
            layers=2 * 12,
            moe=switch(768, 128, expert_dim=2048, activation="geglu"),
            moe_layers=2 * 6,
            dense=FeedForwardConfig(dim=768, inner_dim=2048, activation="geglu"),
            heads=12,
            head_dim=64,
            attentions=3 * 12,
            vocab_size=32128,
            tied=True,
            total=7.4,
        ),
        "Switch-C": Published(
            layers=2 * 15,
            moe=switch(2080, 2048, expert_dim=6144, activation="relu"),
            moe_layers=2 * 15,
            heads=32,
            head_dim=64,
            attentions=3 * 15,
            vocab_size=32128,
            tied=True,
            total=1571,
        ),
    }
