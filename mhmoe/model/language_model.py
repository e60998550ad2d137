"""The causal language model, in transformers' format.

`import mhmoe` registers it: AutoConfig, AutoModel, AutoModelForCausalLM, generate with a key-value cache,
save_pretrained and from_pretrained then work as for any other model. A saved folder also holds a few
lines of code through which transformers finds this package where nobody imported it
(`trust_remote_code=True`).
"""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GenerationMixin
from transformers.cache_utils import Cache
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils.generic import ModelOutput, can_return_tuple

from mhmoe.layers.routers import Routing
from mhmoe.model import earlier_folders
from mhmoe.model.base_model import MHMoEModel, MHMoEPreTrainedModel
from mhmoe.model.config import MHMoEConfig
from mhmoe.model.outputs import CACHE, LOST_BALANCE, MHMoEModelOutput, MHMoEOutput, with_balance

_FOR_LOSS = ("num_items_in_batch", "shift_labels")


class MHMoEForCausalLM(MHMoEPreTrainedModel, GenerationMixin):
    """Language model with dense, X-MoE, MH-MoE or any other feed-forward layers of this package.

    `forward(..., output_routing=True)` returns a `Routing` per MoE layer, with axes (batch, length, ...).
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    accepts_loss_kwargs = True  # Trainer then tells how many labels its accumulated batch has
    predicts_next = True

    def __init__(self, config: MHMoEConfig) -> None:
        if config.is_causal is not self.predicts_next:
            raise ValueError(
                f"{type(self).__name__} needs is_causal={self.predicts_next}; a model of the next token sees those "
                "before it alone (MHMoEForCausalLM), one of masked tokens sees all (MHMoEForMaskedLM)"
            )
        super().__init__(config)
        self.model = MHMoEModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if module is self.lm_head and not self.config.tie_word_embeddings:
            nn.init.normal_(self.lm_head.weight, std=self.config.hidden_size**-0.5)
        else:
            super()._init_weights(module)

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "batch length"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "rows length"] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Float[Tensor, "batch length dim"] | None = None,
        labels: Int[Tensor, "batch length"] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_routing: Any = False,
        **others: Any,
    ) -> MHMoEOutput:
        """`labels` are not shifted: position i is scored against label i + 1, as everywhere in transformers; in a model
        of masked tokens against label i, -100 where a token is seen.

        others: what `MHMoEModel.forward` takes; `shift_labels`, already shifted; `num_items_in_batch`, the labels
        of all micro-batches and processes together: the loss is then this one's part of the loss of all. Its
        balance loss counts in proportion to its labels.
        """
        counted = {name: others.pop(name) for name in _FOR_LOSS if name in others}
        if not self.predicts_next:
            counted["shift_labels"] = labels
        output: MHMoEModelOutput = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_routing=output_routing,
            **others,
            return_dict=True,
        )
        balance, weight = output.balance_loss, self.config.balance_weight if self.training else 0.0
        if labels is None and counted.get("num_items_in_batch") is not None and balance is not None and weight:
            raise ValueError(LOST_BALANCE)
        hidden = output.last_hidden_state
        assert hidden is not None
        if not isinstance(logits_to_keep, int):
            hidden = hidden[:, logits_to_keep]
        elif logits_to_keep:
            hidden = hidden[:, -logits_to_keep:]
        logits = self.lm_head(hidden)
        loss = task_loss = None
        if labels is not None:
            task_loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **counted)
            loss = task_loss
            if balance is not None and weight:
                loss = with_balance(task_loss, weight, balance, labels, **counted)
        return MHMoEOutput(
            loss=loss,
            logits=logits,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            task_loss=task_loss,
            balance_loss=balance,
            routing=output.routing,
            **{CACHE: getattr(output, CACHE)},
        )

    def generate(self, *arguments: Any, output_routing: bool = False, **kwargs: Any) -> Any:  # pyright: ignore
        """As transformers' own. With `output_routing` the result has `routing`, laid out as its `hidden_states` are:

        per step a tuple of one Routing per MoE layer, with axes (batch, length, ...). The first step has the
        length of the prompt, the others 1; the last token that was generated has gone through no layer. Beams
        are in the order in which they were computed. Raises ValueError without return_dict_in_generate=True.
        """
        generate: Any = super().generate  # pyright: ignore[reportAttributeAccessIssue]  # bound to a protocol
        if not output_routing:
            return generate(*arguments, **kwargs)
        steps = _Steps()
        result = generate(*arguments, output_routing=steps, **kwargs)
        if not isinstance(result, ModelOutput):
            raise ValueError("output_routing=True needs return_dict_in_generate=True, or there is no place for it")
        result["routing"] = tuple(steps.routing)
        return result

    def _update_model_kwargs_for_generation(
        self, outputs: ModelOutput, model_kwargs: dict[str, Any], *arguments: Any, **kwargs: Any
    ) -> dict[str, Any]:
        if isinstance(steps := model_kwargs.get("output_routing"), _Steps):
            steps.routing.append(outputs["routing"])
        return super()._update_model_kwargs_for_generation(outputs, model_kwargs, *arguments, **kwargs)


class _Steps:
    """Stands for output_routing=True within generate, and keeps what each step returned."""

    def __init__(self) -> None:
        self.routing = list[tuple[Routing, ...]]()


AutoConfig.register("mhmoe", MHMoEConfig, exist_ok=True)
AutoModel.register(MHMoEConfig, MHMoEModel, exist_ok=True)
AutoModelForCausalLM.register(MHMoEConfig, MHMoEForCausalLM, exist_ok=True)
# By this name Trainer knows that labels are to be shifted where it computes the loss itself.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["mhmoe"] = MHMoEForCausalLM.__name__
earlier_folders.register()
