"""Layers of this package in another library's causal model, where its feed-forward networks stood.

model = AutoModelForCausalLM.from_pretrained("a Llama, Qwen3, GPT-2, Mixtral, ...")
integrate(model, multi_head_moe(dim=768, num_experts=8, moe_heads=4, expert_dim=3072), blocks=[1, 3, 5])
loss = model(input_ids, labels=labels).loss        # in training, with 0.01 times the layers' mean balance loss
model.save_pretrained("folder")
model = load_integrated("folder")

All else stays: generation, Trainer, gradient checkpointing, adapters. Model and config become subclasses of their own
classes, whose type (mhmoe_llama) is in the saved folder: transformers alone then refuses it, and would otherwise fill
the places of our layers with random networks. A model does not say which tokens are padding, so that they are routed
and count in the balance; dropout within the networks that are replaced is gone with them.
"""

import functools
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, is_grad_enabled, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from mhmoe.fields import check_value
from mhmoe.io import UserError
from mhmoe.layers.config import LayerConfig, config_from_dict
from mhmoe.layers.experts import FFNOutput
from mhmoe.model.config import BalanceWeight
from mhmoe.model.outputs import LOST_BALANCE, is_reentrant, mean_of, with_balance

PREFIX = "mhmoe_"
_PLACE = re.compile(r"\.(\d+)\.(?:mlp|feed_forward)$")


class HiddenOnly(nn.Module):
    """`layer(x).hidden`, of the shape of x: (..., dim). Balance losses go to the list that the caller gave.

    A forward adds one to `losses`; the caller empties it before each step. Without gradients nothing is added,
    so that evaluation and generation leave nothing behind. Gradient checkpointing wants `use_reentrant=False`:
    the other kind makes its forward without gradients. A copy begins with no losses, which belong to a graph.
    """

    def __init__(self, layer: nn.Module, losses: list[Tensor]) -> None:
        super().__init__()
        self.layer, self.losses = layer, losses

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        output: FFNOutput = self.layer(x)
        if output.balance_loss is not None and is_grad_enabled():
            self.losses.append(output.balance_loss)
        return output.hidden

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "losses": []}


def feed_forward_places(model: nn.Module) -> dict[int, str]:
    """The names of the feed-forward networks of a decoder, by block, counted from 0. Raises ValueError if none is
    known."""
    decoder: Any = model.get_decoder() if isinstance(model, PreTrainedModel) else model  # no tower that sees or hears
    inside = {id(module) for module in decoder.modules()}
    found = {
        int(match[1]): name
        for name, module in model.named_modules()
        if id(module) in inside and (match := _PLACE.search(name))
    }
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no feed-forward networks that are known, which are called mlp or "
            "feed_forward in their blocks, as in Llama, Qwen3, GPT-2 and Mixtral"
        )
    return found


def integrate(
    model: PreTrainedModel,
    layer: LayerConfig | Mapping[int, LayerConfig],
    *,
    blocks: Sequence[int] | None = None,
    balance_weight: float = 0.01,
) -> PreTrainedModel:
    """Put `layer`, newly initialised, into these blocks of a causal model (all if none are named), in place.

    layer: one config, or one for each block, counted from 0. Its width is the model's hidden size. balance_weight: of
    the mean of the layers' balance losses in the loss that the model computes of `labels`, in training.
    Returns the model. Raises ValueError, naming what does not fit.
    """
    balance_weight = check_value("balance_weight", balance_weight, BalanceWeight)
    if isinstance(layer, Mapping) and blocks is not None:
        raise ValueError("a layer for each block says which blocks; leave `blocks` out, or give one layer for all")
    if type(model) not in MODEL_FOR_CAUSAL_LM_MAPPING.values() or hasattr(model.config, "integrated"):
        raise ValueError(
            f"{type(model).__name__} is not one of transformers' causal models; give one that AutoModelForCausalLM "
            "makes, in which nothing is replaced yet"
        )
    places = feed_forward_places(model)
    layers = dict(layer) if isinstance(layer, Mapping) else dict.fromkeys(places if blocks is None else blocks, layer)
    if not layers:
        raise ValueError("no block is named, so nothing would be replaced; leave `blocks` out for all of them")
    if unknown := sorted(layers.keys() - places.keys()):
        raise ValueError(f"block {unknown[0]} has no feed-forward network; choose from 0 to {max(places)}")
    inside: Any = model
    hidden_size = inside.config.get_text_config().hidden_size
    for block, config in layers.items():
        _check(config, hidden_size)
        _check_call(places[block], model.get_submodule(places[block]), hidden_size)
    ours = _subclass(type(model))
    inside.config.integrated = {
        "layers": {places[block]: config.to_dict() for block, config in layers.items()},
        "balance_weight": balance_weight,
    }
    # In place, as the parts of a model share its config, and large models are not made twice.
    inside.config.__class__ = ours.config_class
    inside.__class__ = ours
    # What loading left: a type that would hide the new class's, and how weights were called in the base's folder.
    vars(inside.config).pop("model_type", None)
    vars(inside).pop("_weight_conversions", None)
    _put_layers(inside)
    if not _has_routers(inside) and getattr(inside.config, "output_router_logits", False):
        inside.config.output_router_logits = False  # of the base's loss of balance, which has nothing to balance now
    return model


def load_integrated(folder: str | Path, **kwargs: Any) -> PreTrainedModel:
    """The model that `integrate` made and `save_pretrained` wrote. kwargs: those of `from_pretrained`, such as dtype.

    Raises UserError if the folder has no such model, or lacks weights.
    """
    kind = _kind(folder)
    if kind is None:
        raise UserError(f"{folder} has no readable config.json; give a folder that save_pretrained wrote")
    if not kind.startswith(PREFIX):
        raise UserError(f"{folder} holds a model of type {kind!r}, in which nothing is integrated; load it as it is")
    ours = register(folder)
    if ours is None:
        base = kind.removeprefix(PREFIX)
        raise UserError(f"{folder} holds a model made of {base!r}, which this version of transformers does not have")
    loaded: Any = ours.from_pretrained(folder, output_loading_info=True, **kwargs)
    model, report = loaded
    if wrong := sorted({*report["missing_keys"], *report["unexpected_keys"]}):
        raise UserError(f"{folder} does not fit its config: {len(wrong)} weights, such as {wrong[0]}")
    return model


def register(folder: str | Path) -> Any:
    """Make Auto classes know the model of a folder, if it is one that `integrate` made; returns its class, or None."""
    kind = _kind(folder) or ""
    base = kind.removeprefix(PREFIX)
    if not kind.startswith(PREFIX) or base not in CONFIG_MAPPING:
        return None
    known: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(CONFIG_MAPPING[base], None)  # all of them would take seconds to import
    return None if known is None else _subclass(known)


def _kind(folder: str | Path) -> str | None:
    """The type of the model in a folder; None if there is none."""
    try:
        return str(json.loads((Path(folder) / "config.json").read_bytes()).get("model_type"))
    except (OSError, ValueError, AttributeError):
        return None


def _check(config: LayerConfig, hidden_size: int) -> None:
    if (dim := getattr(config, "dim", None)) != hidden_size:
        raise ValueError(f"{config.kind} has dim={dim}, the model hidden_size={hidden_size}; give both the same")
    if ahead := [part.kind for part in config.parts() if part.looks_ahead]:
        raise ValueError(f"{ahead[0]} chooses by looking at later tokens, which a causal model must not see")


@torch.no_grad()
def _check_call(name: str, network: nn.Module, hidden_size: int) -> None:
    """Raises ValueError unless a network maps hidden states to hidden states, as what takes its place does."""
    place = next(network.parameters())
    if place.is_meta or not place.is_floating_point():  # there is nothing to try, or it is quantised
        return
    was_training = network.training
    try:
        found: Any = network.eval()(torch.zeros(1, 1, hidden_size, dtype=place.dtype, device=place.device))
    except TypeError:
        found = None
    network.train(was_training)
    if not isinstance(found, Tensor):
        raise ValueError(
            f"{name} ({type(network).__name__}) takes or gives more than hidden states, which a layer of ours cannot"
        )


def _put_layers(model: Any) -> None:
    """What the model's config says, into the model: new layers where networks stand."""
    model.balance_losses = list[Tensor]()
    for name, raw in model.config.integrated["layers"].items():
        place = next(model.get_submodule(name).parameters())
        config = config_from_dict(raw)
        assert isinstance(config, LayerConfig)
        built = config.build().to(place.dtype if place.is_floating_point() else model.dtype)  # or it is quantised
        built = built.to_empty(device="meta") if place.is_meta else built.to(place.device)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, HiddenOnly(built, model.balance_losses).train(model.training))


def _has_routers(model: Any) -> bool:
    """Whether a router of the base is left, whose logits it can give."""
    recorded = (getattr(model, "_can_record_outputs", None) or {}).get("router_logits")
    router = getattr(recorded, "target_class", recorded)
    return router is not None and any(isinstance(part, router) for part in model.modules())


def _unpickled(base: Any, of_config: bool) -> Any:
    """An empty config or model of the class that `_subclass` makes, which no module has."""
    ours = _subclass(base)
    kind = ours.config_class if of_config else ours
    return kind.__new__(kind)


@functools.cache
def _subclass(base: Any) -> Any:
    """The class of models of `base` with layers of ours; registered, so that Auto classes know it in this process."""
    theirs: Any = base.config_class
    kind: dict[str, Any] = {"model_type": f"{PREFIX}{theirs.model_type}"}
    kind["__reduce_ex__"] = lambda self, _: (_unpickled, (base, True), self.__dict__)
    config = type(f"MHMoE{theirs.__name__}", (theirs,), kind)
    signature = inspect.signature(base.forward)

    class Integrated(base):
        config_class = config

        def __init__(self, config: Any, *arguments: Any, **kwargs: Any) -> None:
            super().__init__(config, *arguments, **kwargs)
            _put_layers(self)

        def __reduce_ex__(self, _: Any) -> Any:
            return _unpickled, (base, False), self.__dict__

        @functools.wraps(base.forward)  # Trainer and generate read the signature
        def forward(self, *arguments: Any, **kwargs: Any) -> Any:
            if kwargs.get("output_router_logits") and not _has_routers(self):
                raise ValueError("no router of the base is left, so it has no logits; leave output_router_logits out")
            self.balance_losses = losses = list[Tensor]()  # its own, if it is a replica of torch.nn.DataParallel
            for part in self.modules():
                if isinstance(part, HiddenOnly):
                    part.losses = losses
            output: Any = super().forward(*arguments, **kwargs)
            labels = signature.bind(self, *arguments, **kwargs).arguments.get("labels")
            weight = self.config.integrated["balance_weight"]
            if not self.training or not weight or not is_grad_enabled():
                return output
            counted = {name: kwargs[name] for name in ("num_items_in_batch", "shift_labels") if name in kwargs}
            if labels is None and losses and counted.get("num_items_in_batch") is not None:
                raise ValueError(LOST_BALANCE)
            if is_reentrant(self):
                raise ValueError(
                    "with reentrant checkpointing the balance loss would be lost; "
                    'call gradient_checkpointing_enable({"use_reentrant": False}), or set balance_weight=0'
                )
            if labels is None or not losses:
                return output
            loss = with_balance(output[0], weight, mean_of(losses, output[0].device), labels, **counted)
            self.balance_losses = [balance.detach() for balance in losses]  # else the model could not be copied
            if isinstance(output, tuple):
                return (loss, *output[1:])
            output.loss = loss
            return output

    Integrated.__name__ = Integrated.__qualname__ = f"MHMoE{base.__name__}"
    AutoConfig.register(kind["model_type"], config, exist_ok=True)
    AutoModelForCausalLM.register(config, Integrated, exist_ok=True)
    return Integrated
