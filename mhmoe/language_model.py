"""The causal language model, in transformers' format.

`import mhmoe` registers it: AutoConfig, AutoModelForCausalLM, generate with a key-value cache,
save_pretrained and from_pretrained then work as for any other model. A saved folder also holds a few
lines of code through which transformers finds this package where nobody imported it
(`trust_remote_code=True`).
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.utils.generic import ModelOutput

from mhmoe import earlier_folders
from mhmoe.configuration import MHMoEConfig
from mhmoe.experts import FFNOutput
from mhmoe.records import write_atomically
from mhmoe.routers import Routing
from mhmoe.transformer import Block, make_norm, rotation

SHIM = "mhmoe_shim"
SHIM_CODE = '''"""Lets transformers load this folder by the installed package: pip install mhmoe"""

from mhmoe import earlier_folders
from mhmoe.configuration import MHMoEConfig
from mhmoe.language_model import MHMoEForCausalLM
'''


@dataclass
class MHMoEModelOutput(ModelOutput):
    """What the blocks return together; `balance_loss` is the mean over the MoE layers, None without any."""

    last_hidden_state: Float[Tensor, "batch length dim"] | None = None
    balance_loss: Float[Tensor, ""] | None = None
    routing: tuple[Routing, ...] | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class MHMoEOutput(ModelOutput):
    """`loss` = `task_loss` (mean nats per label) + config.balance_weight * `balance_loss`."""

    loss: Float[Tensor, ""] | None = None
    task_loss: Float[Tensor, ""] | None = None
    balance_loss: Float[Tensor, ""] | None = None
    logits: Float[Tensor, "batch length vocabulary"] | None = None
    routing: tuple[Routing, ...] | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None


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


def _belongs_to_parent(module: nn.Module) -> bool:
    """Plain linear layers are initialised by the layer that holds them."""
    return type(module) is nn.Linear


class MHMoEModel(MHMoEPreTrainedModel):
    """Embedding, blocks, final norm. Embeddings of tokens enter times sqrt(dim) (Vaswani et al. 2017, 3.4)."""

    def __init__(self, config: MHMoEConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.scale = math.sqrt(config.hidden_size)
        self.layers = nn.ModuleList(Block(config, block) for block in range(config.num_hidden_layers))
        self.norm = make_norm(config)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "rows length"] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Float[Tensor, "batch length dim"] | None = None,
        use_cache: bool | None = None,
        output_routing: bool = False,
        output_hidden_states: bool = False,
        **_: Any,
    ) -> MHMoEModelOutput:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        x = self.scale * (self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = 0 if past_key_values is None else past_key_values.get_seq_length()
            position_ids = torch.arange(seen, seen + x.shape[1], device=x.device).unsqueeze(0)
        mask = None
        # The kernels but the eager one have a causal path of their own.
        eager = self.config._attn_implementation == "eager"  # pyright: ignore[reportPrivateUsage]
        if eager or attention_mask is not None or past_key_values is not None:
            mask = create_causal_mask(
                config=self.config,
                inputs_embeds=x,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                position_ids=position_ids,
            )
        padding = None
        if attention_mask is not None and attention_mask.ndim == 2:
            padding = attention_mask[:, -x.shape[1] :].bool()

        width = self.config.hidden_size // self.config.num_attention_heads
        cos, sin = rotation(position_ids, width, self.config.rope_theta)
        turn = (cos.unsqueeze(1), sin.unsqueeze(1))  # the same for all attention heads
        losses, routing, states = [], [], []
        for block in self.layers:
            states.append(x)
            # reentrant gradient checkpointing returns a plain tuple
            output = FFNOutput(*block(x, turn, mask, padding, past_key_values=past_key_values))
            x = output.hidden
            if output.balance_loss is not None:
                losses.append(output.balance_loss)
                routing.append(output.routing)
        x = self.norm(x)
        return MHMoEModelOutput(
            last_hidden_state=x,
            balance_loss=torch.stack(losses).mean() if losses else None,
            routing=tuple(routing) if output_routing else None,
            past_key_values=past_key_values,
            hidden_states=(*states, x) if output_hidden_states else None,
        )


class MHMoEForCausalLM(MHMoEPreTrainedModel, GenerationMixin):
    """Language model with dense, X-MoE, MH-MoE or any other feed-forward layers of this package.

    `forward(..., output_routing=True)` returns a `Routing` per MoE layer, with axes (batch, length, ...).
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    accepts_loss_kwargs = False  # else Trainer leaves the division by accumulation steps to the model

    def __init__(self, config: MHMoEConfig) -> None:
        super().__init__(config)
        self.model = MHMoEModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        nn.init.normal_(self.lm_head.weight, std=config.hidden_size**-0.5)
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"] | None = None,
        attention_mask: Tensor | None = None,
        labels: Int[Tensor, "batch length"] | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> MHMoEOutput:
        """`labels` are not shifted: position i is scored against label i + 1, as everywhere in transformers."""
        kwargs.pop("return_dict", None)
        output: MHMoEModelOutput = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        hidden = output.last_hidden_state
        assert hidden is not None
        if not isinstance(logits_to_keep, int):
            hidden = hidden[:, logits_to_keep]
        elif logits_to_keep:
            hidden = hidden[:, -logits_to_keep:]
        logits = self.lm_head(hidden)
        loss = task_loss = None
        if labels is not None:
            task_loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
            loss = task_loss
            if output.balance_loss is not None:
                loss = task_loss + self.config.balance_weight * output.balance_loss
        return MHMoEOutput(
            loss=loss,
            task_loss=task_loss,
            balance_loss=output.balance_loss,
            logits=logits,
            routing=output.routing,
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
        )

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
        self.config.auto_map = {
            "AutoConfig": f"{SHIM}.MHMoEConfig",
            "AutoModelForCausalLM": f"{SHIM}.MHMoEForCausalLM",
        }
        super().save_pretrained(save_directory, **kwargs)
        write_atomically(Path(save_directory) / f"{SHIM}.py", SHIM_CODE)


AutoConfig.register("mhmoe", MHMoEConfig, exist_ok=True)
AutoModelForCausalLM.register(MHMoEConfig, MHMoEForCausalLM, exist_ok=True)
earlier_folders.register()
