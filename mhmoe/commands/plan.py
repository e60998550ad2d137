"""What `train` is told, made into the configs of the model and of its training. Everything here raises UserError or
ValueError in one line, and none of it takes time."""

import dataclasses
import math
from typing import Annotated, Any

import torch

from mhmoe.commands.options import Train, given
from mhmoe.commands.place import best_precision
from mhmoe.commands.presets import preset_named
from mhmoe.commands.systems import OF_MIXTURES, UNREAD, Sizes, layer_of
from mhmoe.data.corpora import Corpus
from mhmoe.data.packing import PackedDataset
from mhmoe.data.tokenizer import END_OF_TEXT_ID, GivenTokenizer
from mhmoe.fields import Count, Range, check_value
from mhmoe.io import UserError, read_json
from mhmoe.layers.config import LayerConfig, config_from_dict
from mhmoe.layers.experts import FeedForwardConfig
from mhmoe.layers.sparse_moe import SparseMoE
from mhmoe.model.config import MHMoEConfig
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.config import Sharding, TrainingConfig
from mhmoe.training.sharding import check_layout, check_trainable

Epochs = Annotated[float, Range(above=0, most=10**6)]


def check_vocabulary(command: Train, text: Corpus | PackedDataset, tokenizer: GivenTokenizer | None) -> tuple[int, int]:
    """How many symbols there are, and which of them is the end of text."""
    wanted = command.model.vocab_size
    if isinstance(text, PackedDataset):
        size, end_of_text = text.fingerprint["packing"]["vocab_size"], text.end_of_text
        if tokenizer is not None:
            raise UserError(f"{command.data} is packed with a tokenizer of its own; leave out --tokenizer")
    elif tokenizer is not None:
        size, end_of_text = tokenizer.size, tokenizer.end_of_text
    else:
        return wanted or preset_named(command.preset).model["vocab_size"], END_OF_TEXT_ID
    if wanted not in (None, size):
        raise UserError(f"vocab_size={wanted} is not the tokenizer's, which has {size} symbols; leave it out")
    return size, end_of_text


def settings_of(command: Train, vocab_size: int, end_of_text: int) -> MHMoEConfig:
    """The model's config."""
    preset = preset_named(command.preset)
    options = {**preset.model, **given(command.model), "vocab_size": vocab_size}
    dim: int = options["hidden_size"]
    sizes = Sizes(
        dim=dim,
        heads=command.heads,
        experts=command.experts,
        expert_dim=command.expert_dim,
        top_k=command.top_k,
        matching=command.matching,
        network=dict(preset.network),
        multiple_of=preset.multiple_of,
    )
    _check_read(command)
    layer = layer_of(command.system, sizes) if command.layer is None else _layer_in(command)
    width = command.expert_dim if layer is None else None
    plain = FeedForwardConfig(dim=dim, inner_dim=width or 4 * dim, bias=preset.network.get("bias", False))
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end_of_text)
    return MHMoEConfig(**options, **ends, feed_forward=plain, moe=layer)


def _check_read(command: Train) -> None:
    """Raises UserError for an option that would change nothing."""
    unread, whose = UNREAD.get(command.system, ()), f"system {command.system}"
    if command.layer is not None:
        unread, whose = ("system", "heads", "experts", "expert_dim", "top_k", "matching"), "a layer of your own"
    usual = {field.name: field.default for field in dataclasses.fields(Train)}
    told = {name: value for name in unread if (value := getattr(command, name)) != usual[name]}
    if command.system == "dense" and command.layer is None:
        told |= {name: value for name, value in given(command.model).items() if name in OF_MIXTURES}
    for name, value in told.items():
        raise UserError(f"{name}={value} changes nothing in {whose}; leave it out")
    for name in ("epochs", "max_tokens") if command.training.steps is not None else ():
        if (value := getattr(command, name)) is not None:
            raise UserError(
                f"{name}={value} changes nothing beside steps={command.training.steps}; leave one of them out"
            )


def check_multiplied(settings: MHMoEConfig, training: TrainingConfig) -> None:
    """Raises UserError for a multiplier of the learning rate of a part that the model has not."""
    if not training.lr_multipliers:
        return
    with torch.device("meta"):  # takes no memory
        names = [name.split(".") for name, _ in MHMoEForCausalLM(settings).named_parameters()]
    for part, _ in training.lr_multipliers:
        if not any(part in name for name in names):
            raise UserError(f"lr_multipliers={part} changes nothing: the model has no part of that name; leave it out")


def _layer_in(command: Train) -> LayerConfig:
    assert command.layer is not None
    raw = read_json(command.layer, "layer", "write there what a layer's config.to_dict() gives")
    layer = config_from_dict(check_value("layer", raw, dict))
    if not isinstance(layer, LayerConfig):
        raise UserError(f"{command.layer} has {layer.kind}, which is a part of a layer; give a whole one")
    return layer


def training_of(command: Train, device: torch.device, available: int | None = None) -> TrainingConfig:
    """How it is trained, on a text of `available` tokens; None: as long as the options allow.

    Without --steps there are as many as the epochs of the text take, and at most as many as max_tokens.
    """
    preset, epochs = preset_named(command.preset), _epochs(command)
    most = check_value("max_tokens", preset.max_tokens if command.max_tokens is None else command.max_tokens, Count)
    options: dict[str, Any] = {**preset.training, **given(command.training)}
    assumed: dict[str, Any] = {"precision": best_precision(device), "steps": 1}
    config = TrainingConfig(**(assumed | options))
    if command.training.steps is None:
        if command.max_tokens is not None and most < (least := config.tokens_per_step):
            raise UserError(
                f"max_tokens={most} is less than one step reads: {config.batch_sequences} sequences of "
                f"{config.length}, {least} tokens; give at least as many, or take fewer batch_sequences"
            )
        tokens = most if available is None else min(most, round(epochs * available))
        config = dataclasses.replace(config, steps=max(tokens // config.tokens_per_step, 1))
    return config


def tokens_read(command: Train, training: TrainingConfig) -> int:
    """How much of the text decides how long training is: of less than one epoch, more than is trained on."""
    tokens = training.steps * training.tokens_per_step
    return tokens if command.training.steps is not None else math.ceil(tokens / min(_epochs(command), 1.0))


def _epochs(command: Train) -> float:
    chosen = preset_named(command.preset).epochs if command.epochs is None else command.epochs
    return check_value("epochs", chosen, Epochs)


def sharding_of(command: Train, settings: MHMoEConfig, training: TrainingConfig, processes: int) -> Sharding | None:
    """How the model lies on so many processes, None if each has a copy. Raises UserError where they cannot share it."""
    if training.batch_sequences % processes:
        raise UserError(
            f"{processes} processes cannot share out batch_sequences={training.batch_sequences}; "
            "choose numbers that divide"
        )
    if not command.shard and command.expert_parallel == 1:
        return None
    if processes == 1:
        raise UserError(
            "--shard and --expert-parallel are for several processes; start them by "
            "torchrun --standalone --nproc-per-node N -m mhmoe train ..., N a number"
        )
    sharding = Sharding(expert_parallel=command.expert_parallel)
    check_trainable(sharding, training)
    with torch.device("meta"):  # takes no memory
        model = MHMoEForCausalLM(settings)
    if sharding.expert_parallel > 1 and not any(isinstance(part, SparseMoE) for part in model.modules()):
        raise UserError(f"expert_parallel={sharding.expert_parallel} has no sparse experts to share out; leave it at 1")
    check_layout(model, sharding, processes)
    return sharding
