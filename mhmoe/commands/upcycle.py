"""`upcycle`: a dense model, ours or another library's, to a folder with the mixture that starts from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from tyro.conf import Positional

from mhmoe.io import UserError, at_home, check_writable, new_folder
from mhmoe.model.checkpoints import load
from mhmoe.model.upcycle import Keep
from mhmoe.model.upcycle import upcycle as upcycle_model

_READ = 64  # tokens that both models read, at most


@dataclass(frozen=True, kw_only=True)
class Upcycle:
    """Make a dense model a mixture that starts from what it has learned.

    Attributes:
        model: a folder of save_pretrained, or a name on the hub: ours, Llama, Qwen3, GPT-2 and their like.
        out: the folder of the mixture; `mhmoe.load_integrated` loads it, or AutoModelForCausalLM if the model is ours.
        experts: in each layer.
        heads: sub-tokens a token.
        top_k: experts that each of them chooses.
        keep: the dense network as the start of every expert, or beside a new MH-MoE ("shared").
        every: which blocks: 2 for every second one.
    """

    model: Annotated[Positional[str], tyro.conf.arg(metavar="MODEL")]
    out: Path
    experts: int = 8
    heads: int = 1
    top_k: int = 2
    keep: Keep = "experts"
    every: int = 1


def upcycle(command: Upcycle) -> str:
    """What is printed. Raises UserError and ValueError, naming what does not fit."""
    out = at_home(command.out)
    if out.exists():
        raise UserError(f"{out} exists already; remove it or name another --out")
    check_writable(out.absolute().parent)
    loaded: Any = load(command.model, device="cpu")
    model, tokenizer = loaded
    model.eval()
    parameters = model.num_parameters()
    settings = model.config.get_text_config()
    length = min(_READ, getattr(settings, "max_position_embeddings", None) or _READ)
    tokens = torch.randint(settings.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(tokens).logits
    mixture: Any = upcycle_model(
        model,
        num_experts=command.experts,
        heads=command.heads,
        top_k=command.top_k,
        keep=command.keep,
        every=command.every,
    )
    with torch.no_grad():
        after = mixture.eval()(tokens).logits
    with new_folder(out) as new:
        mixture.save_pretrained(new)
        tokenizer.save_pretrained(new)
    return (
        f"{out}: {parameters:,} parameters became {mixture.num_parameters():,}; "
        f"logits differ by at most {float((after - before).abs().max()):.1e}"
    )
