"""The model's config: everything a checkpoint must carry, and the counts that follow from it.

`feed_forward` is the dense FFN of ordinary blocks, `moe` whatever stands in every `moe_every`-th block
(2, 4, ..., the last one included); both are layer configs in their JSON form. Without `moe` the model is
dense. `moe_offset` says which block is the first with `moe`, counted from 0: `moe_every=1, moe_offset=1` is all but
the first (DeepSeekMoE), `moe_every=2, moe_offset=1` Jamba's placement, which is the default's too.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeAlias, get_args

from transformers import PreTrainedConfig
from transformers.utils import logging

from mhmoe.fields import Count, Range, Size, check_fields
from mhmoe.layers.bitnet import Precision
from mhmoe.layers.config import LATER, Config, config_from_dict, divisors
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.multi_head import MultiHeadConfig
from mhmoe.layers.per_head import PerHeadRouterConfig
from mhmoe.layers.routers import RouterConfig

# What transformers itself passes through a config's keyword arguments.
_TRANSFORMERS_KEYS = {
    "_attn_implementation",
    "_experts_implementation",
    "_name_or_path",
    "attn_implementation",
    "auto_map",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "quantization_config",
    "torch_dtype",
    "transformers_version",
    "use_return_dict",
}
Layer: TypeAlias = Any
"""A layer's config, or the JSON form of one, as which it is kept; or None."""
Token = Annotated[int, Range(least=0)]
BalanceWeight = Annotated[float, Range(least=0, most=10**6)]
_logger = logging.get_logger(__name__)


class MHMoEConfig(PreTrainedConfig):
    """Sizes in the names that transformers uses; `hidden_size` is the paper's d.

    `feed_forward` and `moe` take a layer's config or its JSON form, and keep the latter. `balance_weight` is
    the paper's alpha. `norm` is "rms" or "layer"; `attention_bias` puts biases on the attention's projections, and
    `attention_precision` "bitnet" gives them ternary weights and 8 bits (those of layers have a field of their own).
    Without `is_causal` a token attends to those after it too, as in a model of masked tokens.

    Raises ValueError for values that are not allowed or do not fit together, and for unknown keys. A saved
    config, which names its `model_type`, keeps keys that other tools have set, as transformers' own do.
    """

    model_type = "mhmoe"
    keys_to_ignore_at_inference = ["past_key_values", "cache", "task_loss", "balance_loss", "routing"]
    __no_type_check__ = True  # for jaxtyping: __init__ takes more keywords than there are fields

    vocab_size: Size = 2048
    hidden_size: Size = 96
    num_hidden_layers: Count = 4
    num_attention_heads: Count = 4
    max_position_embeddings: Count = 128
    feed_forward: Layer = None
    moe: Layer = None
    moe_every: Count = 2
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: Annotated[float, Range(above=0, most=1)] = 1e-6
    attention_bias: bool = False
    rope_theta: Annotated[float, Range(least=1, most=10**12)] = 10_000.0
    tie_word_embeddings: bool = True
    balance_weight: BalanceWeight = 0.01
    use_cache: bool = True
    moe_offset: Annotated[Token | None, LATER] = None
    attention_precision: Annotated[Precision, LATER] = "full"
    is_causal: Annotated[bool, LATER] = True
    bos_token_id: Token | None = 0
    eos_token_id: Token | list[Token] | None = 0
    pad_token_id: Token | None = 0

    def __post_init__(self, **kwargs: Any) -> None:
        unknown = sorted(kwargs.keys() - _TRANSFORMERS_KEYS)
        if unknown and "model_type" not in kwargs:
            names = ", ".join(MHMoEConfig.__annotations__)
            raise ValueError(f"MHMoEConfig has no key {unknown[0]!r}; it has {names}")
        for name in unknown:
            if callable(getattr(type(self), name, None)):
                raise ValueError(f"the key {name!r} would hide a method of MHMoEConfig; rename it or leave it out")
            _logger.warning_once(f"MHMoEConfig keeps the key {name!r}, of which it makes no use")
        self._check_numbers()
        if self.feed_forward is None:
            self.feed_forward = {"kind": "feed_forward", "dim": self.hidden_size, "inner_dim": 4 * self.hidden_size}
        for name in ("feed_forward", "moe"):
            if isinstance(layer := getattr(self, name), Config):
                setattr(self, name, layer.to_dict())
        super().__post_init__(**kwargs)
        self.validate()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        made: Any = super().from_dict(config_dict, **kwargs)
        (made[0] if isinstance(made, tuple) else made).validate()  # which `kwargs` have changed
        return made

    def validate(self) -> None:
        """Raises ValueError, naming the field. transformers calls it before a config is saved."""
        self._check_numbers()
        self._check_layers()
        super().validate()  # pyright: ignore[reportAttributeAccessIssue]  # a decorator gives it

    def _check_numbers(self) -> None:
        check_fields(self, MHMoEConfig.__annotations__)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            ids = getattr(self, name)
            for token in ids if isinstance(ids, list) else [ids]:
                if token is not None and token >= self.vocab_size:
                    raise ValueError(
                        f"{name}={ids} is not allowed; it must be below vocab_size={self.vocab_size}, or None"
                    )

    def _check_layers(self) -> None:
        even = [n for n in divisors(self.hidden_size) if self.hidden_size // n % 2 == 0]
        if not even:
            raise ValueError(
                f"hidden_size={self.hidden_size} is odd, and rotary positions turn pairs of numbers; choose an even one"
            )
        if self.num_attention_heads not in even:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} does not cut hidden_size={self.hidden_size} "
                f"into even widths (rotary positions turn pairs); choose one of {', '.join(map(str, even))}"
            )
        if self.moe is not None and self.moe_offset is None and self.moe_every > self.num_hidden_layers:
            raise ValueError(
                f"moe_every={self.moe_every} exceeds num_hidden_layers={self.num_hidden_layers}, so that no block "
                f"would have the moe layer; choose at most {self.num_hidden_layers}"
            )
        if self.moe is not None and self._first_moe_block() >= self.num_hidden_layers:
            raise ValueError(
                f"moe_offset={self.moe_offset} is beyond num_hidden_layers={self.num_hidden_layers}, so that no block "
                f"would have the moe layer; choose at most {self.num_hidden_layers - 1}"
            )
        first = self._first_moe_block()
        for block in sorted({0, min(first, self.num_hidden_layers - 1), min(first + 1, self.num_hidden_layers - 1)}):
            layer = self.layer(block)
            if isinstance(layer, RouterConfig | ExpertsConfig):
                raise ValueError(f"{layer.kind} is a part of a layer; give a whole one, such as sparse_moe")
            if self.is_causal and (ahead := [part.kind for part in layer.parts() if part.looks_ahead]):
                raise ValueError(
                    f"{ahead[0]} chooses by looking at later tokens, which a causal language model must not see; "
                    "choose a layer whose rows choose their experts, such as sparse_moe"
                )
            if (dim := getattr(layer, "dim", self.hidden_size)) != self.hidden_size:
                raise ValueError(
                    f"{layer.kind} has dim={dim}, the model hidden_size={self.hidden_size}; give both the same"
                )
            if layer.read_width not in (None, self.hidden_size):
                raise ValueError(
                    f"the router of {layer.kind} reads width {layer.read_width}, and is given {self.hidden_size}"
                )
            heads = {part.heads for part in layer.parts() if isinstance(part, MultiHeadConfig)}
            for part in layer.parts():
                if isinstance(part, PerHeadRouterConfig) and part.heads not in heads:
                    raise ValueError(f"{part.kind} has {part.heads} heads; put multi_head with as many around it")

    def is_moe_block(self, block: int) -> bool:
        """Whether the block, counted from 0, has the moe layer."""
        after = block - self._first_moe_block()
        return self.moe is not None and after >= 0 and after % self.moe_every == 0

    def _first_moe_block(self) -> int:
        return self.moe_every - 1 if self.moe_offset is None else self.moe_offset

    def identity(self) -> dict[str, Any]:
        """The fields that determine a model; LATER ones only where they are not at their defaults."""
        return {
            name: getattr(self, name)
            for name, declared in MHMoEConfig.__annotations__.items()
            if LATER not in get_args(declared) or getattr(self, name) != getattr(MHMoEConfig, name)
        }

    def layer(self, block: int) -> Config:
        """The feed-forward config of a block, counted from 0. Raises ValueError if it is not a valid one."""
        raw = self.moe if self.is_moe_block(block) else self.feed_forward
        if not isinstance(raw, Mapping):
            found = f"{raw!r}".partition("\n")[0][:60]
            raise ValueError(
                f"{found} is no layer's config; give feed_forward and moe one, or what its to_dict() returns"
            )
        return config_from_dict(raw)

    def parameters(self) -> int:
        """Number of trainable numbers; tied embeddings count once."""
        return self._shared_parameters() + self._over_blocks(lambda layer: layer.parameters())

    def active_parameters(self) -> int:
        """Parameters that one token makes use of, its embedding row and the output layer included."""
        return self._shared_parameters() + self._over_blocks(lambda layer: layer.active_parameters())

    def flops_per_token(self, length: int | None = None) -> int:
        """Forward FLOPs (two per multiply-add of the matrix products) of a token in a sequence of `length`.

        Attention counts the whole square, as torch does: the causal half is not subtracted.
        """
        length = self.max_position_embeddings if length is None else length
        attention = 2 * 4 * self.hidden_size**2 + 4 * length * self.hidden_size
        output = 2 * self.hidden_size * self.vocab_size
        feed_forward = self._over_blocks(lambda layer: layer.flops_per_token())
        return self.num_hidden_layers * attention + feed_forward + output

    def _shared_parameters(self) -> int:
        d = self.hidden_size
        embeddings = self.vocab_size * d * (1 if self.tie_word_embeddings else 2)
        norm = d * (2 if self.norm == "layer" else 1)
        attention = 4 * d**2 + self.attention_bias * 4 * d
        return embeddings + self.num_hidden_layers * (attention + 2 * norm) + norm

    def _over_blocks(self, count: Callable[[Config], int]) -> int:
        blocks = range(self.num_hidden_layers)
        of_a_kind = ([block for block in blocks if self.is_moe_block(block) is moe] for moe in (False, True))
        return sum(len(alike) * count(self.layer(alike[0])) for alike in of_a_kind if alike)
