"""Multi-head mixture of experts: split tokens into sub-tokens, route each on its own, merge them again.

    X'  = head(X)                     head(x)  = W_head x + b                            (v1 Eq. 3)
    X'' = split(X')                   (l, d) -> (l h, d/h), token-major                  (v1 Eq. 4)
    O   = inner(X'')                  any layer on sub-tokens, a sparse MoE in the paper (v1 Eq. 5-6)
    Y   = merge(join(O))              join undoes the split; merge(x) = W_merge x + b    (v1 Eq. 7-9)

X in R^{l x d} are tokens, h the heads of this layer (not of attention), d/h the width of a sub-token.
The h sub-tokens of a token are an axis of their own here: (..., d) -> (..., h, d/h) is the same layout.
Wu et al. 2024, arXiv 2404.15045; initialisation as its Appendix E: Xavier-uniform, gain 1/sqrt(2) for
the head layer and 1 for the merge layer, whose bias is 0.

Departures from the paper: the head layer's bias starts at 0 too, where Appendix E and the released code leave it as
torch draws it (Eq. 3 and 9 have no biases); Eq. 6's residual is off unless `inner_residual` (see sparse_moe.py).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn

from mhmoe.fields import Range, Size, check_value
from mhmoe.layers.bitnet import BitLinear, Precision
from mhmoe.layers.config import LATER, LayerConfig, check_route_by, divisors
from mhmoe.layers.experts import ExpertsConfig, FFNOutput
from mhmoe.layers.routers import RouterConfig, XMoERouterConfig, orthogonal
from mhmoe.layers.sparse_moe import ResidualConfig, SparseMoEConfig

HEAD_GAIN = 1 / math.sqrt(2)
MERGE_GAIN = 1.0


def _identity(weight: Tensor, gain: float) -> Tensor:
    return nn.init.eye_(weight)


def _zero(weight: Tensor, gain: float) -> Tensor:
    return nn.init.zeros_(weight)


STARTS: dict[str, Callable[..., Any]] = {
    "xavier": nn.init.xavier_uniform_,
    "orthogonal": orthogonal,
    "identity": _identity,
    "zero": _zero,
}
Start = Literal["xavier", "orthogonal", "identity", "zero"]
Depth = Annotated[int, Range(least=0, most=100)]


@dataclass(frozen=True, kw_only=True)
class MultiHeadConfig(LayerConfig, kind="multi_head"):
    """`inner` works on sub-tokens of width dim / heads.

    `head_layers` and `merge_layers` are the depths of the MLPs before and after, ReLU between their
    layers: 1 is the paper's layer, 0 leaves it out. `heads=1` leaves the splitting out. `head_start` and
    `merge_start`: the initialisation of their matrices. `route_by`: routers read the slices of the head layer's output,
    or those of the token itself; the experts read the former in any case. `precision`: of the head and merge layers.
    """

    dim: Size
    heads: Size
    inner: LayerConfig
    head_layers: Depth = 1
    merge_layers: Depth = 1
    bias: bool = True
    head_start: Annotated[Start, LATER] = "xavier"
    merge_start: Annotated[Start, LATER] = "xavier"
    route_by: Annotated[Literal["head_output", "input"], LATER] = "head_output"
    precision: Annotated[Precision, LATER] = "full"

    def check(self) -> None:
        check_heads("heads", self.heads, self.dim)
        width = self.inner.dim  # pyright: ignore[reportAttributeAccessIssue]  # every feed-forward config has it
        if width != self.dim // self.heads:
            raise ValueError(
                f"inner works on width {width}, but a sub-token has dim / heads = {self.dim // self.heads} numbers"
            )
        check_route_by(self.route_by, self.inner, self.dim // self.heads)

    def build(self) -> "MultiHead":
        return {"head_output": MultiHead, "input": MultiHeadRoutedByInput}[self.route_by](self)

    def parameters(self) -> int:
        return self._layers() * (self.dim**2 + self.bias * self.dim) + self.inner.parameters()

    def active_parameters(self, rows: int = 1) -> int:
        layers = self._layers() * (self.dim**2 + self.bias * self.dim)
        return layers + self.inner.active_parameters(rows * self.heads)

    def flops_per_token(self) -> int:
        return 2 * self._layers() * self.dim**2 + self.heads * self.inner.flops_per_token()

    def _layers(self) -> int:
        return self.head_layers + self.merge_layers


class MultiHead(nn.Module):
    """Y for tokens X of any leading shape; the routing it returns has the axes (..., heads, top_k)."""

    def __init__(self, config: MultiHeadConfig) -> None:
        super().__init__()
        self.config, self.dim, self.heads = config, config.dim, config.heads
        layer = {"full": Projection, "bitnet": BitProjection}[config.precision]
        self.head = _mlp(layer, config.dim, config.head_layers, config.bias, HEAD_GAIN, config.head_start)
        self.inner = config.inner.build()
        self.merge = _mlp(layer, config.dim, config.merge_layers, config.bias, MERGE_GAIN, config.merge_start)

    def forward(self, x: Float[Tensor, "*batch dim"], mask: Bool[Tensor, "*batch"] | None = None) -> FFNOutput:
        """The sub-tokens of tokens where `mask` is False are not routed."""
        if x.shape[-1] != self.dim:
            raise ValueError(
                f"x has width {x.shape[-1]}, this layer has dim={self.dim}; give x of shape (..., {self.dim})"
            )
        if mask is not None and mask.shape != x.shape[:-1]:
            raise ValueError(f"mask is {tuple(mask.shape)}, x {tuple(x.shape)}; give a mask of {tuple(x.shape[:-1])}")
        output = self.route(split(x, self.heads), split(self.head(x), self.heads), expand_mask(mask, self.heads))
        return FFNOutput(self.merge(join(output.hidden)), output.balance_loss, output.routing)

    def route(self, x: Tensor, subtokens: Tensor, mask: Tensor | None) -> FFNOutput:
        """The inner layer's output for `subtokens` of the head layer's output; `x` are those of its input."""
        return self.inner(subtokens, mask)


class MultiHeadRoutedByInput(MultiHead):
    """Routers read the token's own slices: what the head layer learns does not change the routing at once.

    A null for the head layer's part in routing; no paper has it.
    """

    def route(self, x: Tensor, subtokens: Tensor, mask: Tensor | None) -> FFNOutput:
        return self.inner(subtokens, mask, x)


def split(x: Float[Tensor, "*batch dim"], heads: int) -> Float[Tensor, "*batch heads head_dim"]:
    """Cut every token into `heads` consecutive slices (v1 Eq. 4)."""
    return x.unflatten(-1, (heads, -1))


def join(x: Float[Tensor, "*batch heads head_dim"]) -> Float[Tensor, "*batch dim"]:
    """Put the slices back side by side, in their order (v1 Eq. 7-8)."""
    return x.flatten(-2)


def expand_mask(mask: Bool[Tensor, "*batch"] | None, heads: int) -> Bool[Tensor, "*batch heads"] | None:
    """A padded token's sub-tokens are padding."""
    return None if mask is None else mask.unsqueeze(-1).expand(*mask.shape, heads)


class Projection(nn.Linear):
    """A linear layer that starts as v1 Appendix E has it (Xavier-uniform), or orthogonal, as the identity, or at 0."""

    def __init__(self, dim: int, bias: bool, gain: float, start: Start = "xavier") -> None:
        self.gain, self.start = gain, STARTS[start]
        super().__init__(dim, dim, bias=bias)

    def reset_parameters(self) -> None:
        self.start(self.weight, gain=self.gain)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class BitProjection(Projection):
    """The same with ternary weights and inputs of 8 bits."""

    parts = 1
    forward = BitLinear.forward


def _mlp(layer: type[Projection], dim: int, layers: int, bias: bool, gain: float, start: Start) -> nn.Module:
    """`layers` projections with ReLU between them; the identity for none."""
    modules: list[nn.Module] = []
    for _ in range(layers):
        modules += [nn.ReLU()] if modules else []
        modules.append(layer(dim, bias, gain, start))
    if len(modules) < 2:
        return modules[0] if modules else nn.Identity()
    return nn.Sequential(*modules)


def multi_head_moe(
    *,
    dim: int,
    num_experts: int,
    expert_dim: int,
    moe_heads: int = 4,
    top_k: int | None = None,
    activation: str = "gelu",
    bias: bool = False,
    inner_norm: bool = False,
    inner_residual: bool = False,
    head_layers: int = 1,
    merge_layers: int = 1,
    capacity_factor: float | None = None,
    router: RouterConfig | None = None,
) -> MultiHeadConfig:
    """Config of the paper's layer: `MultiHead` around a `SparseMoE` on sub-tokens.

    `expert_dim` is the inner width of one expert; matching.py solves it for an equal size. `bias` and
    `inner_norm` are the experts'. The default router is the X-MoE paper's, with `top_k` of 1; another one works
    on width dim / moe_heads and has its own. Raises ValueError, naming the field, for sizes that do not fit
    together.
    """
    check_heads("moe_heads", moe_heads, dim)
    width = dim // moe_heads
    if router is None:
        router = XMoERouterConfig(dim=width, num_experts=num_experts, top_k=1 if top_k is None else top_k)
    elif top_k is not None and top_k != router.top_k:
        raise ValueError(
            f"top_k={top_k} and router.top_k={router.top_k} differ; give both the same, or the router's alone"
        )
    inner: LayerConfig = SparseMoEConfig(
        router=router,
        experts=ExpertsConfig(
            dim=width,
            num_experts=num_experts,
            expert_dim=expert_dim,
            activation=activation,  # pyright: ignore[reportArgumentType]  # ExpertsConfig checks it
            bias=bias,
            inner_norm=inner_norm,
        ),
        capacity_factor=capacity_factor,
    )
    if inner_residual:
        inner = ResidualConfig(inner=inner)
    return MultiHeadConfig(dim=dim, heads=moe_heads, inner=inner, head_layers=head_layers, merge_layers=merge_layers)


class MultiHeadMoE(MultiHead):
    """The paper's layer, ready to stand where an FFN stood; takes the arguments of `multi_head_moe`.

        layer = MultiHeadMoE(dim=768, num_experts=8, top_k=1, moe_heads=4, expert_dim=3072)
        hidden, balance_loss, routing = layer(x)       # x: (..., 768)

    Add `balance_weight * balance_loss` (0.01 in the paper) to the task's loss.
    """

    def __init__(self, **sizes: Any) -> None:
        super().__init__(multi_head_moe(**sizes))


def check_heads(name: str, heads: int, dim: int) -> None:
    """Raises ValueError unless `heads` cuts `dim` into equal slices."""
    check_value("dim", dim, Size)
    check_value(name, heads, int)
    if heads < 1 or dim % heads:
        choices = ", ".join(map(str, divisors(dim)[:-1] or [1]))
        raise ValueError(f"{name}={heads} does not divide dim={dim}; choose one of {choices}")
