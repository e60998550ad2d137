"""The routers of MH-MoE and its peers, which differ in the score s of an expert alone.

    DotProductRouter        s_p = x . e_p                                                (v1 Eq. 5)
    XMoERouter              s_p = cos(W x, e_p) / t, t learned             (Chi et al. 2022, arXiv 2204.09179)
    ReleasedRouter          s_p = (W x) . e_p / |e_p|              (the code released with X-MoE and MH-MoE)
    FixedTemperatureRouter  s_p = cos(W x, e_p) / 0.3, W in R^{E/2 x dim}                          (LibMoE)

What becomes of the scores stands in routing.py; routers that choose in another way have files of their own.

Departures from the papers: v1 Table 9 gives MH-MoE a router width of 16/h, which is no integer at
h = 6 and 12; like the released code we keep 16. The X-MoE paper sets it to half the number of experts typically, and
its balance loss takes the scores at a temperature that stays fixed (its Eq. 8); here the loss is v1's Eq. 10, of the
gates at the learned one. Further ones stand at each router.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from mhmoe.fields import Range, Size
from mhmoe.layers.grouped import linear
from mhmoe.layers.routing import Router, RouterConfig, to_float32
from mhmoe.layers.routing import Routing as Routing  # where earlier code looks for it

EMBEDDING_GAIN = 0.32  # of the orthogonal initialisation, as released
RELEASED_NORM = 1.5
LARGEST_INVERSE_TEMPERATURE = 100.0
Temperature = Annotated[float, Range(least=1 / LARGEST_INVERSE_TEMPERATURE, most=10**6)]
SMALLEST_NORM = 1e-4  # with torch's own 1e-12 the gradient at a row of zeros is beyond all bounds


@dataclass(frozen=True, kw_only=True)
class DotProductRouterConfig(RouterConfig, kind="dot_product_router"):
    """One embedding of width dim per expert."""

    def build(self) -> "DotProductRouter":
        return DotProductRouter(self)

    def parameters(self) -> int:
        return self.dim * self.num_experts

    def flops_per_token(self) -> int:
        return 2 * self.dim * self.num_experts


class DotProductRouter(Router):
    """s_p = x . e_p (v1 Eq. 5)."""

    def __init__(self, config: DotProductRouterConfig) -> None:
        super().__init__(config)
        self.expert_embeddings = nn.Parameter(torch.empty(config.num_experts, config.dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.expert_embeddings, std=self.config.dim**-0.5)

    def scores(self, x: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows experts"]:
        return linear(x, to_float32(self.expert_embeddings))


@dataclass(frozen=True, kw_only=True)
class LowDimensionalRouterConfig(RouterConfig):
    """Routers that score in a space of `router_dim` numbers."""

    router_dim: Size = 16

    def parameters(self) -> int:
        return self.router_dim * (self.dim + self.num_experts)

    def flops_per_token(self) -> int:
        return 2 * self.router_dim * (self.dim + self.num_experts)


class LowDimensionalRouter(Router):
    """Holds W (`projection`) and the expert embeddings e_p."""

    def __init__(self, config: LowDimensionalRouterConfig) -> None:
        super().__init__(config)
        self.projection = nn.Parameter(torch.empty(config.router_dim, config.dim))
        self.expert_embeddings = nn.Parameter(torch.empty(config.num_experts, config.router_dim))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.projection, std=self.projection.shape[1] ** -0.5)
        orthogonal(self.expert_embeddings, gain=EMBEDDING_GAIN)

    def cosines(self, x: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows experts"]:
        row = F.normalize(F.linear(x, to_float32(self.projection)), dim=-1, eps=SMALLEST_NORM)
        return F.linear(row, F.normalize(to_float32(self.expert_embeddings), dim=-1))


@dataclass(frozen=True, kw_only=True)
class XMoERouterConfig(LowDimensionalRouterConfig, kind="xmoe_router"):
    """The X-MoE paper's router. `temperature` is where the learned one starts: 0.3 for softmax gating."""

    temperature: Temperature = 0.3

    def build(self) -> "XMoERouter":
        return XMoERouter(self)

    def parameters(self) -> int:
        return super().parameters() + 1


class XMoERouter(LowDimensionalRouter):
    """s_p = cos(W x, e_p) / t; log(1/t) is learned, so that t stays positive.

    Departure: the projection starts normal with variance 1/dim, sqrt(3) times the released code's deviation
    (uniform within 1/sqrt(dim)). Its scale cancels in the cosine; what it changes is how fast an optimiser
    turns it.
    """

    def __init__(self, config: XMoERouterConfig) -> None:
        super().__init__(config)
        self.initial_temperature = config.temperature
        self.log_inverse_temperature = nn.Parameter(torch.empty(1))  # an axis, as FSDP shards nothing without
        self.register_load_state_dict_pre_hook(_give_former_temperatures_an_axis)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.constant_(self.log_inverse_temperature, -math.log(self.initial_temperature))

    def scores(self, x: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows experts"]:
        inverse = to_float32(self.log_inverse_temperature).clamp(max=math.log(LARGEST_INVERSE_TEMPERATURE)).exp()
        return self.cosines(x) * inverse


def _give_former_temperatures_an_axis(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """In earlier checkpoints the parameter had none."""
    if (value := state_dict.get(f"{prefix}log_inverse_temperature")) is not None:
        state_dict[f"{prefix}log_inverse_temperature"] = value.reshape(1)


@dataclass(frozen=True, kw_only=True)
class ReleasedRouterConfig(
    LowDimensionalRouterConfig,
    kind="unit_embeddings_router",
    retired={
        "released_router": "its scores were 1.5 times those of the released code; "
        "choose unit_embeddings_router and train again"
    },
):
    """The router of the released code: only the experts' side is normalised, there is no temperature."""

    def build(self) -> "ReleasedRouter":
        return ReleasedRouter(self)


class ReleasedRouter(LowDimensionalRouter):
    """s_p = (W x) . e_p / |e_p| (torchscale, component/xmoe/routing.py).

    Departure: the released code scales its embeddings in place to norm 1.5 before every forward, and scores
    with unit vectors all the same. Here they start at that norm and are left to the optimiser; as no gradient
    points along an embedding, they stay near it.
    """

    def __init__(self, config: ReleasedRouterConfig) -> None:
        super().__init__(config)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The projection as torch's linear layers, uniform within 1/sqrt(dim); orthogonal directions."""
        super().reset_parameters()
        nn.init.kaiming_uniform_(self.projection, a=math.sqrt(5))
        with torch.no_grad():
            self.expert_embeddings.copy_(RELEASED_NORM * F.normalize(self.expert_embeddings, dim=-1))

    def scores(self, x: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows experts"]:
        embeddings = F.normalize(to_float32(self.expert_embeddings), dim=-1)
        return F.linear(F.linear(x, to_float32(self.projection)), embeddings)


@dataclass(frozen=True, kw_only=True)
class FixedTemperatureRouterConfig(LowDimensionalRouterConfig, kind="fixed_temperature_router"):
    """LibMoE's router; there `router_dim` is half the number of experts."""

    temperature: Temperature = 0.3

    def build(self) -> "FixedTemperatureRouter":
        return FixedTemperatureRouter(self)


class FixedTemperatureRouter(LowDimensionalRouter):
    """s_p = cos(W x, e_p) / t with t fixed."""

    def __init__(self, config: FixedTemperatureRouterConfig) -> None:
        super().__init__(config)
        self.temperature = config.temperature
        self.reset_parameters()

    def scores(self, x: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows experts"]:
        return self.cosines(x) / self.temperature


def orthogonal(weight: Tensor, gain: float = 1.0) -> None:
    """torch's initialisation, also in half precision, for which it has no decomposition."""
    if weight.dtype.itemsize >= 4:
        nn.init.orthogonal_(weight, gain)
    else:
        weight.data.copy_(nn.init.orthogonal_(to_float32(weight.detach()), gain))
