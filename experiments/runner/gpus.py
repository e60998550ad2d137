"""What a run needs of given GPUs: memory of each, tokens a second, days. Arithmetic alone; nothing is run.

    memory   = 16 P / n                 parameters, gradients, both moments of Adam in float32; n = 1 for copies
             + gathered                 of a sharded model: two blocks with gradients, and what all blocks share
             + weights                  as products took them, kept for the backward pass whole on every GPU
             + kept                     for the backward pass of one micro-batch, and the logits with their gradient
    FLOP/s   = count * peak * share     share of the peak that a training step reaches
    FLOPs    = 3 F a token              F the forward pass; the blocks' once more where micro-batches need counts first

Kept are, by our count on real models (a test holds it), without dropout and without the square of attention: for
attention, norms and residuals of a block 28 bytes a token and width (38 in float32), and what `kept_by` says of the
feed-forward layer. Products in bfloat16 take weights cast to it; those of experts with an inner norm, down matrices
with its scale in them. FSDP frees what it gathers, but not these. A share of the peak is assumed, not known: the
default is what the MH-MoE layer of 8 experts at equal FLOPs reached on an H200 (results/speed/card.md), forward and
backward in bfloat16, by torch's products: 176 of 989 TFLOP/s. X-MoE's layer reached 216, of 256 experts 134; MH-MoE's
at equal parameters 246, of 64 experts at equal FLOPs 119; a dense network 577.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mhmoe.io import UserError
from mhmoe.layers.config import Config
from mhmoe.layers.experts import ExpertsConfig, FeedForwardConfig
from mhmoe.layers.multi_head import MultiHeadConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig
from mhmoe.model.config import MHMoEConfig

PEAK_SHARE = 176 / 989
STATES = 16  # bytes a parameter
LOGIT = 12  # bytes: bfloat16, its softmax in float32, and the gradients of both
ATTENTION = {2: 28, 4: 38}  # bytes a token and width, by those of a number


@dataclass(frozen=True)
class GPU:
    """memory in GB (2^30 bytes); peak in TFLOP/s by the type of the products, without sparsity."""

    memory: int
    peak: Mapping[str, float]


GPUS = {
    # NVIDIA V100 datasheet, January 2020, SXM2: 125 TFLOP/s are float16's, which we do not train in; no bfloat16
    "V100": GPU(32, {"float32": 15.7}),
    # NVIDIA A100 datasheet, June 2021, SXM: 80 GB
    "A100": GPU(80, {"float32": 19.5, "bfloat16": 312}),
    # NVIDIA H100 datasheet, SXM: 1,979 TFLOP/s with sparsity
    "H100": GPU(80, {"float32": 66.9, "bfloat16": 989}),
}


@dataclass(frozen=True, kw_only=True)
class GPUs:
    """count of one kind, and the share of its peak that training is taken to reach."""

    kind: str
    count: int
    share: float = PEAK_SHARE

    @classmethod
    def parse(cls, text: str) -> "GPUs":
        """Of "8xH100", or "8xH100@0.3" for another share of the peak. Raises UserError."""
        found = re.fullmatch(r"([1-9]\d*)x(\w+)(?:@(0?\.\d+))?", text)
        if found is None or found[2] not in GPUS or not float(found[3] or PEAK_SHARE):
            known = ", ".join(GPUS)
            raise UserError(
                f"gpus={text!r} is not known; write how many of {known}, such as 8xH100, or 8xH100@0.3 "
                "for another share of the peak"
            )
        return cls(kind=found[2], count=int(found[1]), share=float(found[3] or PEAK_SHARE))

    def __str__(self) -> str:
        return f"{self.count} x {self.kind}"

    def precision(self, wanted: str) -> str:
        """What is computed in: float32 on a card that lacks the type that a scale wants."""
        return wanted if wanted in GPUS[self.kind].peak else "float32"


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Of one GPU, in bytes, whole (a copy on each) and sharded; of all GPUs together, tokens a second."""

    states: int
    sharded_states: float
    gathered: int
    weights: int
    kept: int
    tokens_per_second: float

    @property
    def whole(self) -> float:
        return self.states + self.weights + self.kept

    @property
    def sharded(self) -> float:
        return self.sharded_states + self.gathered + self.weights + self.kept


def needs(model: MHMoEConfig, training: Mapping[str, Any], gpus: GPUs) -> Needs:
    """Of a model trained so. Raises UserError where the GPUs do not divide the batch."""
    sequences, micro = training["batch_sequences"], training.get("micro_batches", 1)
    if sequences % (gpus.count * micro):
        raise UserError(f"{gpus.count} GPUs with micro_batches={micro} do not divide batch_sequences={sequences}")
    precision = gpus.precision(training.get("precision", "float32"))
    layers = [model.layer(block) for block in range(model.num_hidden_layers)]
    of_blocks = sum(layer.parameters() for layer in layers)
    around = model.parameters() - of_blocks  # attention with it, which counts a little too much
    tokens = sequences // (gpus.count * micro) * training["length"]
    size = 2 if precision == "bfloat16" else 4
    kept = sum(ATTENTION[size] * model.hidden_size + kept_by(layer, size) for layer in layers)
    forward = model.flops_per_token(training["length"])
    flops = 3 * forward
    if micro > 1 and any(isinstance(part, ExpertsConfig) for layer in layers for part in layer.parts()):
        flops += forward - 2 * model.hidden_size * model.vocab_size
    peak = 1e12 * GPUS[gpus.kind].peak[precision]
    return Needs(
        states=STATES * model.parameters(),
        sharded_states=STATES * model.parameters() / gpus.count,
        gathered=8 * (2 * max(layer.parameters() for layer in layers) + around),
        weights=2 * model.parameters() if size == 2 else 4 * sum(map(scaled, layers)),
        kept=tokens * (kept + LOGIT * model.vocab_size),
        tokens_per_second=gpus.count * peak * gpus.share / flops,
    )


def scaled(layer: Config) -> int:
    """How many parameters of experts are multiplied by their inner norm's scale."""
    experts = [part for part in layer.parts() if isinstance(part, ExpertsConfig) and part.inner_norm]
    return sum(part.num_experts * part.dim * part.inner for part in experts if part.precision == "full")


def kept_by(layer: Config, size: int) -> int:
    """Bytes a token that a feed-forward layer keeps for its backward pass, where a number has `size` of them.

    The inputs of its matrices, what activations and inner norms read, and the experts' results, for their gates; of a
    router, its input and three numbers an expert, in float32.
    """
    if isinstance(layer, MultiHeadConfig):
        return 2 * size * layer.dim + layer.heads * kept_by(layer.inner, size)
    if isinstance(layer, SparseMoEConfig):
        router, shared = layer.router, 0 if layer.shared is None else kept_by(layer.shared, size)
        of_experts = router.top_k * (kept_by(layer.experts, size) + size * layer.dim)
        read = 0 if size == 4 else 4 * layer.dim  # else the router reads what the experts read
        return of_experts + shared + read + 4 * 3 * router.num_experts
    if isinstance(layer, FeedForwardConfig | ExpertsConfig):
        return size * (layer.dim + layer.up_width + (1 + layer.inner_norm) * layer.inner)
    return sum(kept_by(part, size) for part in vars(layer).values() if isinstance(part, Config))
