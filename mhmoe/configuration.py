"""The model's config: everything a checkpoint must carry, and the counts that follow from it.

`feed_forward` is the dense FFN of ordinary blocks, `moe` whatever stands in every `moe_every`-th block
(2, 4, ..., the last one included); both are layer configs in their JSON form. Without `moe` the model is
dense.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from mhmoe.configs import Config, config_from_dict, divisors
from mhmoe.experts import ExpertsConfig
from mhmoe.routers import RouterConfig

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
    "torch_dtype",
    "transformers_version",
    "use_return_dict",
}
NORMS = ("rms", "layer")


@strict
class MHMoEConfig(PreTrainedConfig):
    """Sizes in the names that transformers uses; `hidden_size` is the paper's d.

    Raises ValueError for sizes that do not fit together and for unknown keys. `balance_weight` is the
    paper's alpha. `norm` is "rms" or "layer"; `attention_bias` puts biases on the attention's projections.
    """

    model_type = "mhmoe"
    __no_type_check__ = True  # for jaxtyping: __init__ takes more keywords than there are fields

    vocab_size: int = 2048
    hidden_size: int = 96
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    max_position_embeddings: int = 128
    feed_forward: dict[str, Any] | None = None
    moe: dict[str, Any] | None = None
    moe_every: int = 2
    norm: str = "rms"
    norm_eps: float = 1e-6
    attention_bias: bool = False
    rope_theta: float = 10_000.0
    tie_word_embeddings: bool = True
    balance_weight: float = 0.01
    use_cache: bool = True
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 0
    pad_token_id: int | None = 0

    def __post_init__(self, **kwargs: Any) -> None:
        if unknown := sorted(kwargs.keys() - _TRANSFORMERS_KEYS):
            names = ", ".join(f.name for f in dataclasses.fields(self) if f.name in MHMoEConfig.__annotations__)
            raise ValueError(f"MHMoEConfig has no key {unknown[0]!r}; it has {names}")
        if self.feed_forward is None:
            self.feed_forward = {
                "kind": "feed_forward",
                "dim": self.hidden_size,
                "inner_dim": 4 * self.hidden_size,
            }
        super().__post_init__(**kwargs)
        self._check()

    def _check(self) -> None:
        for name in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
            "moe_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not allowed; it must be at least 1")
        even = [n for n in divisors(self.hidden_size) if self.hidden_size // n % 2 == 0]
        if self.num_attention_heads not in even:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} does not cut hidden_size={self.hidden_size} "
                f"into even widths (rotary positions turn pairs); choose one of {', '.join(map(str, even))}"
            )
        if self.norm not in NORMS:
            raise ValueError(f"norm={self.norm!r} is not known; choose one of {', '.join(NORMS)}")
        if self.balance_weight < 0:
            raise ValueError(f"balance_weight={self.balance_weight} is not allowed; it must be at least 0")
        if self.moe is not None and self.moe_every > self.num_hidden_layers:
            raise ValueError(
                f"moe_every={self.moe_every} exceeds num_hidden_layers={self.num_hidden_layers}, so that no block "
                f"would have the moe layer; choose at most {self.num_hidden_layers}"
            )
        for block in range(min(self.num_hidden_layers, self.moe_every)):
            layer = self.layer(block)
            if isinstance(layer, RouterConfig | ExpertsConfig):
                raise ValueError(f"{layer.kind} is a part of a layer; give a whole one, such as sparse_moe")
            if (dim := getattr(layer, "dim", self.hidden_size)) != self.hidden_size:
                raise ValueError(
                    f"{layer.kind} has dim={dim}, the model hidden_size={self.hidden_size}; give both the same"
                )

    def is_moe_block(self, block: int) -> bool:
        return self.moe is not None and (block + 1) % self.moe_every == 0

    def layer(self, block: int) -> Config:
        """The feed-forward config of a block, counted from 0. Raises ValueError if it is not a valid one."""
        raw = self.moe if self.is_moe_block(block) else self.feed_forward
        assert raw is not None
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
        return sum(count(self.layer(block)) for block in range(self.num_hidden_layers))
