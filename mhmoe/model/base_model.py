"""The model without its output layer, in transformers' format: embedding, blocks, final norm.

What a stock causal model of transformers does with an argument is done here too: a default taken from
the config, documents of one row told apart by positions that start again (where no cache is used), an output as a
tuple.
"""

import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import (
    create_causal_mask,
    find_packed_sequence_indices,
    packed_sequence_mask_function,
)
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple
from transformers.utils.import_utils import is_jit_tracing

from mhmoe.io import write_atomically
from mhmoe.layers.bitnet import BitLinear
from mhmoe.model.config import MHMoEConfig
from mhmoe.model.outputs import CACHE, MHMoEModelOutput, mean_of
from mhmoe.model.transformer import Block, BlockOutput, make_norm, rotation

SHIM = "mhmoe_shim"
SHIM_CODE = '''"""Lets transformers load this folder by the installed package: pip install mhmoe"""

from mhmoe import MHMoEConfig, MHMoEFor{kind}, MHMoEModel
'''
_FOR_KERNELS = {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"}  # bounds of documents, for flash
_WITHOUT_EFFECT = {"cache_position", "seq_idx", "token_type_ids"}  # stock models take them and use them no more
_logger = logging.get_logger(__name__)


class MHMoEPreTrainedModel(PreTrainedModel):
    """What transformers must know about our models."""

    config: MHMoEConfig
    config_class = MHMoEConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]
    _supports_sdpa = True
    _supports_flash_attn = True

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
        elif (reset := getattr(module, "reset_parameters", None)) is not None and not _belongs_to_parent(module):
            reset()

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        """Skips what was loaded. transformers asks for a module's own parameters, and ours may set their children's."""
        if all(getattr(parameter, "_is_hf_initialized", False) for parameter in module.parameters()):
            module._is_hf_initialized = True  # pyright: ignore[reportArgumentType]
        super()._initialize_weights(module)

    @classmethod
    def from_pretrained(cls, *arguments: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """As transformers' own, but a folder that lacks weights is a ValueError: no weight is ever made up."""
        loaded: Any = super().from_pretrained(*arguments, output_loading_info=True, **kwargs)
        model, report = loaded
        if missing := sorted(report["missing_keys"]):
            raise ValueError(
                f"{arguments[0] if arguments else 'the checkpoint'} does not fit its config: {len(missing)} missing "
                f"weights, such as {missing[0]}; use the version of this package that wrote it"
            )
        return (model, report) if output_loading_info else model

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:  # pyright: ignore
        """As transformers' own, plus the shim through which the folder loads without `import mhmoe`."""
        kind = "CausalLM" if self.config.is_causal else "MaskedLM"
        self.config.auto_map = {
            "AutoConfig": f"{SHIM}.MHMoEConfig",
            "AutoModel": f"{SHIM}.MHMoEModel",
            f"AutoModelFor{kind}": f"{SHIM}.MHMoEFor{kind}",
        }
        super().save_pretrained(save_directory, **kwargs)
        write_atomically(Path(save_directory) / f"{SHIM}.py", SHIM_CODE.format(kind=kind))


def _belongs_to_parent(module: nn.Module) -> bool:
    """Plain linear layers are initialised by the layer that holds them."""
    return type(module) in (nn.Linear, BitLinear)


class MHMoEModel(MHMoEPreTrainedModel):
    """Embedding, blocks, final norm. Embeddings of tokens enter times sqrt(dim) (Vaswani et al. 2017, 3.4)."""

    def __init__(self, config: MHMoEConfig) -> None:
        config.validate()  # it may have been changed since it was made
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.scale = math.sqrt(config.hidden_size)
        self.layers = nn.ModuleList(Block(config, block) for block in range(config.num_hidden_layers))
        self.norm = make_norm(config)
        self.gradient_checkpointing = False
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "batch length"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "rows length"] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Float[Tensor, "batch length dim"] | None = None,
        use_cache: bool | None = None,
        output_routing: Any = False,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **others: Any,
    ) -> MHMoEModelOutput:
        """None takes the config's value; `use_cache` is then off in training and in programs that are traced.

        others: `cache`, the new name of past_key_values; `return_dict`; document bounds for flash attention.
        Raises TypeError for anything else, and ValueError unless one of input_ids and inputs_embeds is given.
        """
        cache = others.pop("cache", None)
        cache = past_key_values if cache is None else cache
        for name in others:
            if name not in _FOR_KERNELS and name not in _WITHOUT_EFFECT:
                raise TypeError(f"forward() got an unexpected keyword argument {name!r}")
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        x = self.scale * (self._embed(input_ids) if inputs_embeds is None else inputs_embeds)
        if use_cache is None:
            use_cache = self.config.use_cache and self.config.is_causal and not self.training and not _traced()
        if (use_cache or cache is not None) and not self.config.is_causal:
            raise ValueError(
                "a model whose tokens see those after them has no cache; leave out use_cache and the cache"
            )
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if cache is not None and self._checkpoints():
            _logger.warning_once("gradient checkpointing computes blocks twice: the key-value cache is left out")
            cache = None
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions

        mask = None
        apart: dict[str, Any] = {}
        if position_ids is not None and attention_mask is None and not self.config.is_causal:
            documents = find_packed_sequence_indices(position_ids.expand(x.shape[0], -1))
            if documents is not None:  # of a causal mask transformers looks itself
                apart = {"and_mask_function": packed_sequence_mask_function(documents)}
        # The kernels but the eager one have a causal path of their own.
        eager = self.config._attn_implementation == "eager"  # pyright: ignore[reportPrivateUsage]
        if eager or attention_mask is not None or position_ids is not None or cache is not None:
            mask = create_causal_mask(
                config=self.config,
                inputs_embeds=x,
                attention_mask=attention_mask,
                position_ids=position_ids,
                **{CACHE: cache, **apart},  # pyright: ignore[reportArgumentType]
            )
        seen = 0 if cache is None else cache.get_seq_length()
        ordinary = torch.arange(x.shape[1], device=x.device).unsqueeze(0) + seen
        padding = None
        if attention_mask is not None and attention_mask.ndim == 2:
            columns = attention_mask[:, -x.shape[1] :]
            if cache is not None:  # of a fixed size it has columns for tokens to come, too
                later = (ordinary[0, -1] + 1 - attention_mask.shape[1]).clamp(min=0)
                columns = attention_mask.index_select(1, ordinary[0] - later)
            padding = columns.bool()
        kernel = {name: value for name, value in others.items() if name in _FOR_KERNELS}
        if position_ids is not None:
            kernel["position_ids"] = position_ids
        if output_attentions:
            kernel["output_attentions"] = True  # kernels that have none then say so

        width = self.config.hidden_size // self.config.num_attention_heads
        cos, sin = rotation(ordinary if position_ids is None else position_ids, width, self.config.rope_theta)
        rope = (cos.unsqueeze(1), sin.unsqueeze(1))  # the same for all attention heads
        losses, routing, states, attentions = [], [], [], []
        for block in self.layers:
            if output_hidden_states:
                states.append(x)
            output = BlockOutput(*block(x, rope, mask, padding, cache, **kernel))  # checkpointed: a plain tuple
            x = output.hidden
            if output.balance_loss is not None:
                losses.append(output.balance_loss)
                routing += [output.routing] if output_routing else []
            if output_attentions and output.attention is not None:
                attentions.append(output.attention)
        x = self.norm(x)
        return MHMoEModelOutput(
            last_hidden_state=x,
            hidden_states=(*states, x) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            balance_loss=mean_of(losses, x.device) if losses else None,
            routing=tuple(routing) if output_routing else None,
            **{CACHE: cache},  # pyright: ignore[reportArgumentType]
        )

    def _embed(self, tokens: Any) -> Tensor:
        try:
            return self.embed_tokens(tokens)
        except IndexError:  # on a CPU; other devices could tell only at the cost of waiting for them
            size = self.config.vocab_size
            found = f"tokens from {int(tokens.min())} to {int(tokens.max())}"
            raise ValueError(f"input_ids has {found}; they must be from 0 to {size - 1}") from None

    def _checkpoints(self) -> bool:
        training = self.training and torch.is_grad_enabled()
        return training and any(block.gradient_checkpointing for block in self.layers)


def _traced() -> bool:
    """Such programs return tensors alone. While torch.compile works, some versions say that they export."""
    exporting = torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()
    return exporting or is_jit_tracing()
