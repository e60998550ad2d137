"""Model folders saved before version 0.2 import this name from here."""

from mhmoe.model.config import MHMoEConfig

__all__ = ["MHMoEConfig"]
