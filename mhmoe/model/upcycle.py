"""Sparse upcycling: a dense model becomes a mixture, and starts from what it has learned.

    keep="experts"   every expert starts as a copy of the dense network, the gates of a token sum to 1, the head and the
                     merge layer start as the identity. At heads=1 the model is then the same function as before.
    keep="shared"    the dense network stays beside a new MH-MoE whose merge layer starts at 0: y = f(x) + 0. The same
                     function as before for any number of heads.

Komatsuzaki et al. 2022, arXiv 2212.05055, for keep="experts" without heads. At heads=h > 1 and keep="experts", expert p
starts as the part of the dense network that reads and writes the slice i = p mod h of a token,
f_p(x) = W_down[i] act(W_up[:, i] x + b_up) + b_down[i]: the network without what joins slices, and routing is free to
send a slice to the part of another. That is a start, and not the same function.

Departures from the paper: gates always sum to 1, which it found best for language models' decoders too; routers start
as their own configs say. With top_k=1 such gates are 1 and the router learns from the balance loss alone: take 2.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from mhmoe.layers.activations import ACTIVATIONS
from mhmoe.layers.beside import Beside, BesideConfig
from mhmoe.layers.config import LayerConfig
from mhmoe.layers.experts import Experts, ExpertsConfig, FeedForward, FeedForwardConfig
from mhmoe.layers.multi_head import MultiHeadConfig, check_heads
from mhmoe.layers.routers import DotProductRouterConfig, RouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig
from mhmoe.model.config import MHMoEConfig
from mhmoe.model.integrate import HiddenOnly, feed_forward_places, integrate
from mhmoe.model.language_model import MHMoEForCausalLM

Keep: TypeAlias = Literal["experts", "shared"]
RouterOf: TypeAlias = Callable[..., RouterConfig]
_GATED = {"silu": "swiglu", "swish": "swiglu", "gelu": "geglu"}
_PLAIN = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu", "relu2": "relu2"}


@dataclass(frozen=True, kw_only=True)
class DenseNetwork:
    """A trained feed-forward network: its sizes; up [up_width, dim], down [dim, inner], and biases."""

    config: FeedForwardConfig
    up: Tensor
    down: Tensor
    up_bias: Tensor | None = None
    down_bias: Tensor | None = None


def upcycle(
    model: PreTrainedModel,
    *,
    num_experts: int,
    heads: int = 1,
    top_k: int = 2,
    keep: Keep = "experts",
    every: int = 1,
    projections: bool = True,
    router: RouterOf = DotProductRouterConfig,
    balance_weight: float = 0.01,
) -> PreTrainedModel:
    """Make every `every`-th feed-forward network of a dense causal model a mixture that starts from it.

    model: ours without MoE layers, of which a new one is made; or another library's (Llama, Qwen3, Mistral, GPT-2 and
    their like), in place as by `integrate`. projections: with a head and a merge layer also at heads=1, else it is a
    plain mixture. router: makes a router's config of dim, num_experts, top_k and renormalize.
    Returns the model. Raises ValueError, naming what does not fit.
    """
    if keep == "shared" and not projections:
        raise ValueError("keep='shared' starts its merge layer at 0 and needs one; leave projections=True")
    if heads > 1 and not projections:
        raise ValueError(f"heads={heads} without projections: choose heads=1, or projections=True")
    if hasattr(model.config, "integrated"):
        raise ValueError("the model has layers of ours already; give a dense one")
    if isinstance(model, MHMoEForCausalLM) and model.config.moe is not None:
        raise ValueError("the model has MoE layers already; give a dense one")
    if every < 1:
        raise ValueError(f"every={every} is not allowed; it must be at least 1")
    places = feed_forward_places(model)
    chosen = {block: name for block, name in places.items() if block % every == every - 1}
    if not chosen:
        raise ValueError(f"every={every} leaves none of {len(places)} blocks; choose at most {len(places)}")
    networks = {block: dense_network(model.get_submodule(name)) for block, name in chosen.items()}

    def layer(network: DenseNetwork) -> LayerConfig:
        return upcycled(network.config, num_experts, heads, top_k, keep, projections, router)

    layers = {block: layer(network) for block, network in networks.items()}
    if isinstance(model, MHMoEForCausalLM):
        mixture: PreTrainedModel = _ours(model, next(iter(layers.values())), every, balance_weight)
    else:
        mixture = integrate(model, layers, balance_weight=balance_weight)
    for block, name in chosen.items():
        module = mixture.get_submodule(name)
        start(module.layer if isinstance(module, HiddenOnly) else module, networks[block], heads)
    return mixture


def upcycled(
    network: FeedForwardConfig,
    num_experts: int,
    heads: int = 1,
    top_k: int = 2,
    keep: Keep = "experts",
    projections: bool = True,
    router: RouterOf = DotProductRouterConfig,
) -> LayerConfig:
    """The mixture that a dense network becomes; its experts have the network's inner width."""
    check_heads("heads", heads, network.dim)
    width = network.dim // heads
    shape: Any = {"activation": network.activation, "bias": network.bias, "inner_norm": network.inner_norm}
    inner = SparseMoEConfig(
        router=router(dim=width, num_experts=num_experts, top_k=top_k, renormalize=True),
        experts=ExpertsConfig(dim=width, num_experts=num_experts, expert_dim=network.inner, **shape),
    )
    if not projections:
        return inner
    merge_start = "zero" if keep == "shared" else "identity"
    layer = MultiHeadConfig(dim=network.dim, heads=heads, inner=inner, head_start="identity", merge_start=merge_start)
    return BesideConfig(shared=network, routed=layer) if keep == "shared" else layer


@torch.no_grad()
def start(layer: nn.Module, network: DenseNetwork, heads: int) -> None:
    """Copy a dense network into a layer of `upcycled`: beside it where it has a place, else into its experts."""
    if isinstance(layer, Beside):
        layer.shared.up_proj.weight.copy_(network.up)
        layer.shared.down_proj.weight.copy_(network.down)
        _copy(layer.shared.up_proj.bias, network.up_bias)
        _copy(layer.shared.down_proj.bias, network.down_bias)
        return
    (experts,) = (part for part in layer.modules() if isinstance(part, Experts))
    width = network.config.dim // heads
    for expert in range(experts.num_experts):
        own = slice(expert % heads * width, (expert % heads + 1) * width)
        experts.up_proj[expert].copy_(network.up[:, own])
        experts.down_proj[expert].copy_(network.down[own])
        _copy(None if experts.up_bias is None else experts.up_bias[expert], network.up_bias)
        down_bias = None if network.down_bias is None else network.down_bias[own]
        _copy(None if experts.down_bias is None else experts.down_bias[expert], down_bias)


def dense_network(module: nn.Module) -> DenseNetwork:
    """The weights of a feed-forward network of ours, or of transformers'. Raises ValueError for other kinds."""
    if isinstance(module, FeedForward):
        if not isinstance(module.inner_norm, nn.Identity) or type(module.up_proj) is not nn.Linear:
            raise ValueError("a network with an inner norm, or with ternary weights, cannot be upcycled")
        name = next(name for name, made in ACTIVATIONS.items() if type(module.activation) is made)
        up, down = module.up_proj, module.down_proj
        return _network(name, up.weight, down.weight, up.bias, down.bias)
    network = _theirs(module)
    _check_same(module, network)
    return network


def _theirs(module: nn.Module) -> DenseNetwork:
    parts: Any = module
    activation = _activation(module)
    if all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj")):
        if activation not in _GATED:
            raise ValueError(f"a gated network with {activation} is not known; it must be one of {_told(_GATED)}")
        up = torch.cat([parts.gate_proj.weight, parts.up_proj.weight])
        biases = [parts.gate_proj.bias, parts.up_proj.bias]
        up_bias = None if biases[0] is None else torch.cat(biases)
        return _network(_GATED[activation], up, parts.down_proj.weight, up_bias, parts.down_proj.bias)
    if all(hasattr(module, name) for name in ("c_fc", "c_proj")):
        if activation not in _PLAIN:
            raise ValueError(f"a network with {activation} is not known; it must be one of {_told(_PLAIN)}")
        up, down = parts.c_fc, parts.c_proj
        to_rows, from_rows = (p.weight if isinstance(p, nn.Linear) else p.weight.T for p in (up, down))  # or Conv1D
        return _network(_PLAIN[activation], to_rows, from_rows, up.bias, down.bias)
    raise ValueError(
        f"{type(module).__name__} is no dense network that is known: those of Llama and its like have gate_proj, "
        "up_proj and down_proj, GPT-2's c_fc and c_proj; a mixture can be replaced by `integrate`, not upcycled"
    )


@torch.no_grad()
def _check_same(module: nn.Module, network: DenseNetwork) -> None:
    """Raises ValueError where a module does more than its matrices and activation say."""
    if network.up.is_meta:
        return
    was_training, x = module.training, torch.randn(8, network.config.dim, dtype=torch.float64).to(network.up)
    theirs: Tensor = module.eval()(x)
    module.train(was_training)
    inner = ACTIVATIONS[network.config.activation]()(F.linear(x, network.up, network.up_bias))
    ours = F.linear(inner, network.down, network.down_bias)
    if not torch.allclose(theirs, ours, rtol=0.05, atol=0.05 * ours.abs().max().item()):
        raise ValueError(
            f"{type(module).__name__} does more than its matrices and its activation say: multipliers, adapters or "
            "limits would be lost; merge or remove them"
        )


def _network(name: str, up: Tensor, down: Tensor, up_bias: Tensor | None, down_bias: Tensor | None) -> DenseNetwork:
    if (up_bias is None) != (down_bias is None):
        raise ValueError("a network with a bias on one side alone cannot be upcycled")
    config = FeedForwardConfig(
        dim=down.shape[0],
        inner_dim=down.shape[1],
        activation=name,  # pyright: ignore[reportArgumentType]  # FeedForwardConfig checks it
        bias=up_bias is not None,
    )
    return DenseNetwork(config=config, up=up, down=down, up_bias=up_bias, down_bias=down_bias)


def _activation(module: nn.Module) -> str:
    """As transformers calls it."""
    function = getattr(module, "act_fn", getattr(module, "act", None))
    for name in {**_GATED, **_PLAIN}:
        if type(function) is type(ACT2FN[name]):
            return name
    return type(function).__name__


def _told(known: Mapping[str, str]) -> str:
    return ", ".join(known)


def _copy(place: Tensor | None, value: Tensor | None) -> None:
    if place is not None and value is not None:
        place.copy_(value)


def _ours(dense: MHMoEForCausalLM, layer: LayerConfig, every: int, balance_weight: float) -> MHMoEForCausalLM:
    """A model of ours with the dense one's weights but for the mixtures'."""
    changes: dict[str, Any] = {"moe": layer.to_dict(), "moe_every": every, "balance_weight": balance_weight}
    changes["moe_offset"] = None  # the last of so many again
    mixture: Any = type(dense)(MHMoEConfig(**(dense.config.identity() | changes)))
    used: Any = dense.config
    mixture.set_attn_implementation(used._attn_implementation)
    mixture.to(dense.device, dense.dtype).train(dense.training)
    if dense.can_generate():
        mixture.generation_config = copy.deepcopy(dense.generation_config)
    kept = mixture.load_state_dict(dense.state_dict(), strict=False)
    assert all(".feed_forward." in name for name in (*kept.missing_keys, *kept.unexpected_keys)), kept
    trained = {name: parameter.requires_grad for name, parameter in dense.named_parameters()}
    for name, parameter in mixture.named_parameters():
        parameter.requires_grad_(trained.get(name, True))
    return mixture
