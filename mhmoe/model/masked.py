"""The model of masked tokens, in transformers' format: the language model whose tokens attend to both sides.

`import mhmoe` registers it for AutoModelForMaskedLM. Which tokens are masked is the data's business (data/masking.py).
"""

from typing import Any

from transformers import AutoModelForMaskedLM

from mhmoe.model.config import MHMoEConfig
from mhmoe.model.language_model import MHMoEForCausalLM


class MHMoEForMaskedLM(MHMoEForCausalLM):
    """The same network with `is_causal=False`: position i is scored against label i. It generates nothing."""

    predicts_next = False

    @classmethod
    def can_generate(cls) -> bool:
        return False

    def generate(self, *arguments: Any, **others: Any) -> Any:
        """Raises ValueError."""
        raise ValueError("a model of masked tokens generates nothing; read the logits where tokens are masked")


def language_model(config: MHMoEConfig) -> MHMoEForCausalLM:
    """The model that a config is of: of the next token, or of masked ones."""
    return (MHMoEForCausalLM if config.is_causal else MHMoEForMaskedLM)(config)


AutoModelForMaskedLM.register(MHMoEConfig, MHMoEForMaskedLM, exist_ok=True)
