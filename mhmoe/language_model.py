"""Model folders saved before version 0.2 import these names from here."""

from mhmoe.model.base_model import MHMoEModel
from mhmoe.model.language_model import MHMoEForCausalLM

__all__ = ["MHMoEForCausalLM", "MHMoEModel"]
