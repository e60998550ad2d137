"""Feed-forward networks: one dense, or many with stacked weights of which each row uses a few.

    f(x)  = W_down norm(act(W_up x + b_up)) + b_down
    o(x)  = sum_{j <= top_k} g_j(x) f_{p_j(x)}(x)                            (v1 Eq. 6, without its residual)

act is one of activations.py: GELU, or a gated one such as SwiGLU, of the two halves of W_up x. norm is absent
unless `inner_norm` (the sub-LN of the authors' stack); with it and biases an expert has the parameters that
v1 Table 11 counts. Stacked weights are laid out as in transformers: up_proj [experts, inner, dim] (twice the
inner rows where gated), down_proj [experts, dim, inner].

Rows are sorted by expert, each expert multiplies its contiguous share, and the weighted results
are added back to their rows: nothing is padded and nothing is dropped. On a card the plain network (no bias, no
norm, full precision) goes by fused.py where Triton is there, and a handful of its rows on a CPU by few_rows.py.
"""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mhmoe.fields import Range, Size, check_value
from mhmoe.layers import fused
from mhmoe.layers.activations import ACTIVATIONS, GATED, ActivationName
from mhmoe.layers.bitnet import PRECISIONS, Precision, linear
from mhmoe.layers.config import LATER, Config, LayerConfig
from mhmoe.layers.dispatch import Order, combine, gather, sort_by_expert
from mhmoe.layers.few_rows import few_experts, takes
from mhmoe.layers.grouped import grouped_linear
from mhmoe.layers.routing import Routing, autocast_type
from mhmoe.layers.slices import in_slices
from mhmoe.layers.stacked_norms import NoNorm, StackedLayerNorm, StackedLayerNormOfRows


class FFNOutput(NamedTuple):
    """What every feed-forward layer returns. A layer that does not route has neither loss nor routing."""

    hidden: Float[Tensor, "*batch dim"]
    balance_loss: Float[Tensor, ""] | None = None
    routing: Routing | None = None


@dataclass(frozen=True, kw_only=True)
class _NetworkConfig(Config):
    """One two-layer network of input width `dim`; three matrices when gated."""

    dim: Size
    activation: ActivationName = "gelu"
    bias: bool = False
    inner_norm: bool = False
    output_gain: Annotated[float, Range(above=0, most=10**3), LATER] = 1.0
    """Of the initial deviation of the down matrices."""
    precision: Annotated[Precision, LATER] = "full"
    """Of the matrices, and of what they multiply: "bitnet" has ternary weights and 8 bits (bitnet.py)."""

    @property
    def up_width(self) -> int:
        return self.inner * (2 if self.activation in GATED else 1)

    @property
    def gated(self) -> int:
        """How many matrices the up matrix is."""
        return self.up_width // self.inner

    @property
    def inner(self) -> int:
        raise NotImplementedError

    def network_parameters(self) -> int:
        matrices = self.dim * (self.up_width + self.inner)
        return matrices + self.bias * (self.up_width + self.dim) + self.inner_norm * 2 * self.inner

    def network_flops(self) -> int:
        return 2 * self.dim * (self.up_width + self.inner)


@dataclass(frozen=True, kw_only=True)
class FeedForwardConfig(_NetworkConfig, LayerConfig, kind="feed_forward"):
    """One dense network that every token goes through."""

    inner_dim: Size

    @property
    def inner(self) -> int:
        return self.inner_dim

    def build(self) -> "FeedForward":
        return FeedForward(self)

    def parameters(self) -> int:
        return self.network_parameters()

    def flops_per_token(self) -> int:
        return self.network_flops()


class FeedForward(nn.Module):
    """f(x) for every row."""

    def __init__(self, config: FeedForwardConfig) -> None:
        super().__init__()
        self.output_gain = config.output_gain
        self.up_proj = linear(config.precision, config.dim, config.up_width, config.bias, config.gated)
        self.activation = ACTIVATIONS[config.activation]()
        self.inner_norm = nn.LayerNorm(config.inner) if config.inner_norm else nn.Identity()
        self.down_proj = linear(config.precision, config.inner, config.dim, config.bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As each of the stacked experts."""
        for layer, gain in ((self.up_proj, 1.0), (self.down_proj, self.output_gain)):
            nn.init.normal_(layer.weight, std=gain * layer.in_features**-0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "*batch dim"], mask: Bool[Tensor, "*batch"] | None = None) -> FFNOutput:
        """A mask changes nothing here: rows do not see each other."""
        return FFNOutput(self.down_proj(self.inner_norm(self.activation(self.up_proj(x)))))


@dataclass(frozen=True, kw_only=True)
class ExpertsConfig(_NetworkConfig, kind="experts"):
    """`num_experts` networks of the same shape."""

    num_experts: Size
    expert_dim: Size

    @property
    def inner(self) -> int:
        return self.expert_dim

    def build(self) -> "Experts":
        return Experts(self)

    def parameters(self) -> int:
        return self.num_experts * self.network_parameters()

    def flops_per_token(self) -> int:
        """Of one selection; a row makes top_k of them."""
        return self.network_flops()


class Experts(nn.Module):
    """o(x) for every row, given its routing."""

    def __init__(self, config: ExpertsConfig) -> None:
        super().__init__()
        self.config = config
        count, inner = config.num_experts, config.inner
        self.num_experts, self.output_gain = count, config.output_gain
        self.up_proj = nn.Parameter(torch.empty(count, config.up_width, config.dim))
        self.down_proj = nn.Parameter(torch.empty(count, config.dim, inner))
        self.up_bias = nn.Parameter(torch.empty(count, config.up_width)) if config.bias else None
        self.down_bias = nn.Parameter(torch.empty(count, config.dim)) if config.bias else None
        self.activation = ACTIVATIONS[config.activation]()
        self.precision, self.gated = PRECISIONS[config.precision], config.gated
        norm = {"full": StackedLayerNorm, "bitnet": StackedLayerNormOfRows}[config.precision]
        self.inner_norm = norm(count, inner) if config.inner_norm else NoNorm()
        self.plain = not (config.bias or config.inner_norm) and config.precision == "full"
        self.activation_name, self.kernels, self.slices = config.activation, DEFAULT_KERNELS, 1
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal with the inverse of each matrix's input width as variance, the down matrices' with `output_gain`."""
        for weight, gain in ((self.up_proj, 1.0), (self.down_proj, self.output_gain)):
            nn.init.normal_(weight, std=gain * weight.shape[-1] ** -0.5)
        for bias in (self.up_bias, self.down_bias):
            if bias is not None:
                nn.init.zeros_(bias)

    def forward(
        self,
        x: Float[Tensor, "*batch dim"],
        index: Int[Tensor, "*batch top_k"],
        weight: Float[Tensor, "*batch top_k"],
    ) -> Float[Tensor, "*batch dim"]:
        """Weighted sum of the chosen experts' outputs; selections of weight 0 add nothing."""
        top_k = index.shape[-1]
        if self.plain and takes(x, index):
            flat = x.reshape(-1, x.shape[-1]), self.up_proj, self.down_proj, index.reshape(-1, top_k)
            return few_experts(*flat, weight.reshape(-1, top_k), self.activation).view(x.shape)
        order = sort_by_expert(index.reshape(-1, top_k), self.num_experts)
        rows, up, down, down_bias = self.matrices(x.reshape(-1, x.shape[-1]))
        if self.plain and self.kernels is not None and fused.runs_on(rows):
            gates = weight.reshape(-1, top_k)
            return fused.experts(rows, up, down, gates, order, self.activation_name, self.kernels).view(x.shape)

        gathered = gather(rows, order)
        if self.slices > 1:
            out = in_slices(self.slices, gathered, up, self.up_bias, down, self.activation, order.offsets, order.expert)
        else:
            inner = _add(self.up_bias, grouped_linear(gathered, up, order.offsets), order)
            inner = self.precision.rows(self.inner_norm(self.activation(inner), order.expert))
            out = grouped_linear(inner.to(rows.dtype), down, order.offsets)
        out = _add(down_bias, out, order)
        return combine(out, weight.reshape(-1, top_k), order).view(x.shape)

    def each(self, x: Float[Tensor, "experts taken dim"]) -> Float[Tensor, "experts taken dim"]:
        """f_p of the rows of expert p, as many for each."""
        rows, up, down, down_bias = self.matrices(x)
        inner = torch.bmm(rows, up.mT)
        if self.up_bias is not None:
            inner = inner + self.up_bias.to(inner.dtype).unsqueeze(1)
        inner = self.precision.rows(self.inner_norm(self.activation(inner)))
        out = torch.bmm(inner.to(rows.dtype), down.mT)
        return out if down_bias is None else out + down_bias.to(out.dtype).unsqueeze(1)

    def matrices(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Rows, up and down matrices in the type to compute in; the down biases."""
        up, down = self.precision.weights(self.up_proj, self.gated), self.precision.weights(self.down_proj)
        down, down_bias = self.inner_norm.fold(down, self.down_bias)
        rows, up, down = _compute_type(self.precision.rows(rows), up, down)
        return rows, up, down, down_bias


DEFAULT_KERNELS: fused.Kernels | None = fused.Kernels()


def use_kernels(module: nn.Module, kernels: fused.Kernels | None) -> nn.Module:
    """How all experts in `module` compute on a card; None: product by product, as everywhere else."""
    for part in module.modules():
        if isinstance(part, Experts):
            part.kernels = kernels
    return module


def use_slices(module: nn.Module, slices: int) -> nn.Module:
    """All experts in `module` compute so many slices of their inner width one after the other, and again in backward:
    memory falls about as much, for a third more arithmetic. 1: all at once.

    Where Triton's kernels compute (`use_kernels`), they have slices of their own. Raises ValueError where the whole
    width belongs together: with an inner norm, or ternary weights.
    """
    check_value("slices", slices, Size)
    found = [part for part in module.modules() if isinstance(part, Experts)]
    if slices > 1 and any(part.config.inner_norm or part.config.precision != "full" for part in found):
        raise ValueError("experts with an inner norm or ternary weights cannot be computed in slices; leave 1")
    for part in found:
        part.slices = slices
    return module


def _add(bias: Tensor | None, rows: Tensor, order: Order) -> Tensor:
    return rows if bias is None else rows + bias.to(rows.dtype)[order.expert]


def _compute_type(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Under autocast its type, as in torch's own products, which the grouped one would ignore."""
    device = autocast_type(tensors[0])
    if not torch.is_autocast_enabled(device):
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors)
