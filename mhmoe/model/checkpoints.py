"""Any causal language model in transformers' format, ours or another's, from a folder or the hub.

What cannot be used is a UserError of one line, where transformers gives a traceback or goes on with random weights.
"""

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from mhmoe.io import UserError
from mhmoe.model.integrate import register
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.model.masked import MHMoEForMaskedLM as _  # noqa: F401  # registers our checkpoints with transformers


def load(
    checkpoint: str, *, device: str | None = None, trust_remote_code: bool = False, masked: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a folder or of a name on the hub, in the precision that they were saved in.

    masked: a model of masked tokens, and not of the next one.

    Raises UserError if there is no such checkpoint, its architecture or version is not known, or its weights are
    not those that its config asks for (transformers would go on with random ones).
    """
    folder = Path(os.path.expanduser(checkpoint))  # Path's own raises where there is no such user
    is_folder = os.path.isdir(folder)  # False, unlike Path's, for names that no folder can have
    if is_folder and not (folder / "config.json").is_file():
        raise UserError(f"checkpoint {checkpoint} has no config.json; name a folder written by save_pretrained")
    name = str(folder) if is_folder else checkpoint
    if is_folder:
        register(folder)
    try:
        with _without_reports():
            loaded: Any = (AutoModelForMaskedLM if masked else AutoModelForCausalLM).from_pretrained(
                name,
                dtype="auto",
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
            )
        model, info = loaded
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    except Exception as error:  # whatever transformers, the hub and the file formats raise
        reason = first_line(error)
        if not is_folder:
            raise UserError(f"checkpoint {checkpoint} is no folder and no model on the hub ({reason})") from None
        raise UserError(f"checkpoint {checkpoint} cannot be loaded: {reason}") from error
    ours = isinstance(model, MHMoEForCausalLM)  # other models may come with heads of other uses
    for kind in ("mismatched", "missing", "unexpected") if ours else ("mismatched", "missing"):
        if keys := sorted(str(key[0]) if isinstance(key, tuple) else str(key) for key in info[f"{kind}_keys"]):
            raise UserError(
                f"checkpoint {checkpoint} does not fit its config: {len(keys)} {kind} weights, such as {keys[0]}; "
                "use the version of this package that wrote it"
            )
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if place.type == "meta":
            raise RuntimeError("it holds no numbers")
        return model.to(place), tokenizer  # pyright: ignore[reportArgumentType]  # its stub knows no devices
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={device!r} cannot be used: {first_line(error)}") from None


@contextlib.contextmanager
def _without_reports() -> Generator[None]:
    """Without transformers' tables of weights that do not fit, which come before an error of one line, and bars."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
