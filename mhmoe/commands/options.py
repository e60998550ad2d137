"""What `train` is told. Every field of the model's and of the training's config is an option too: None takes the
preset's, else the config's own default.

The layers have options of their own (systems.py), and tokens that mean something come from the tokenizer.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tyro.conf import OmitArgPrefixes


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Of MHMoEConfig.

    Attributes:
        vocab_size: symbols of the tokenizer that is trained on the text.
        hidden_size: the model's width.
        num_hidden_layers: blocks.
        num_attention_heads: heads of attention, not of the MoE layer.
        max_position_embeddings: the context, in tokens.
        moe_every: every so many blocks one has the MoE layer, the last of so many; 2.
        moe_offset: the first block with the MoE layer, counted from 0; moe_every - 1.
        norm: rms or layer.
        norm_eps: what norms add to a variance; 1e-6.
        attention_bias: biases on the attention's projections.
        attention_precision: full, or bitnet for ternary weights.
        rope_theta: base of the rotary positions; 10000.
        tie_word_embeddings: one matrix for embeddings and output layer; True.
        balance_weight: alpha, the weight of the balance loss; 0.01.
    """

    vocab_size: int | None = None
    hidden_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    max_position_embeddings: int | None = None
    moe_every: int | None = None
    moe_offset: int | None = None
    norm: Literal["rms", "layer"] | None = None
    norm_eps: float | None = None
    attention_bias: bool | None = None
    attention_precision: Literal["full", "bitnet"] | None = None
    rope_theta: float | None = None
    tie_word_embeddings: bool | None = None
    balance_weight: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Of TrainingConfig.

    Attributes:
        steps: of the optimiser; else as many as epochs and max_tokens give.
        batch_sequences: sequences a step, over all processes.
        length: tokens of a sequence; at most the context.
        learning_rate: the highest, after the warm-up.
        warmup: share of the steps in which the rate rises; 0.04.
        betas: of AdamW; 0.9 0.98.
        eps: of AdamW; 1e-6.
        weight_decay: of matrices; 0.01.
        clip_norm: of the gradient; 2.
        micro_batches: parts of a step's batch, one after the other, which take less memory; 1.
        precision: float32 or bfloat16; else bfloat16 where the device computes in it.
        compile: by torch.compile.
        evaluations: points of the curve; 10.
        evaluation_windows: windows of valid that a point reads; 256.
        mup_scaled: matrices whose rates are scaled by their width, up_proj and down_proj.
        lr_multipliers: of the learning rate of parts: head, merge, experts, router.
        base_width: the width at which the learning rate was found; it is scaled from there (muP).
    """

    steps: int | None = None
    batch_sequences: int | None = None
    length: int | None = None
    learning_rate: float | None = None
    warmup: float | None = None
    betas: tuple[float, float] | None = None
    eps: float | None = None
    weight_decay: float | None = None
    clip_norm: float | None = None
    micro_batches: int | None = None
    precision: Literal["float32", "bfloat16"] | None = None
    compile: bool | None = None
    evaluations: int | None = None
    evaluation_windows: int | None = None
    mup_scaled: tuple[Literal["up_proj", "down_proj"], ...] | None = None
    lr_multipliers: tuple[tuple[Literal["head", "merge", "experts", "router"], float], ...] | None = None
    base_width: int | None = None


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a language model on text of your own. The same command goes on where it was interrupted.

    Attributes:
        data: a text file, .jsonl, .jsonl.gz, a folder of such, a folder saved by datasets, owner/name@COMMIT of the
            hub, a folder of corpora with manifest.json, or one made by `python -m experiments pack`.
        out: folder for the model; else NAME-SYSTEM here, after the text's name.
        tokenizer: folder or hub name of any Hugging Face tokenizer; else a BPE is trained on the text.
        system: mhmoe, xmoe, switch, mixtral, deepseekmoe or dense.
        preset: smoke (seconds), laptop (minutes on two cores), gpu (a large one), paper (a cluster); each is a model,
            its training, and how much is read: see docs, or presets.py.
        heads: of MH-MoE.
        experts: of the mixture, or of the one whose size MH-MoE has.
        expert_dim: inner width of an expert of that mixture; 4 times the model's.
        top_k: experts that a token or sub-token chooses; the system's.
        matching: MH-MoE's size to X-MoE: as-printed, equal-parameters, equal-flops; none takes the numbers as they are.
        layer: a JSON file with the config of the MoE layer (its to_dict()), instead of a system.
        epochs: how often the text is read; the preset's.
        max_tokens: of training, whatever the epochs; the preset's.
        seed: of initial weights and data order.
        device: cpu, cuda, or auto for CUDA where there is any.
        shard: under torchrun, no process has the whole model (FSDP2); else each has a copy (DDP).
        expert_parallel: under torchrun, so many processes share out the experts; shards all else, too.
        time_budget: seconds after which to stop with a checkpoint.
        log_every: steps between lines of the log.
        tensorboard: a folder to write TensorBoard's files to.
        wandb: a project of Weights & Biases to send the numbers to.
        trackio: a project of trackio.
    """

    data: str
    out: Path | None = None
    tokenizer: str = ""
    system: str = "mhmoe"
    preset: str = "laptop"
    heads: int = 4
    experts: int = 8
    expert_dim: int | None = None
    top_k: int | None = None
    matching: str = "equal-flops"
    layer: Path | None = None
    epochs: float | None = None
    max_tokens: int | None = None
    seed: int = 1
    device: str = "auto"
    shard: bool = False
    expert_parallel: int = 1
    time_budget: float | None = None
    log_every: int = 10
    tensorboard: Path | None = None
    wandb: str = ""
    trackio: str = ""
    model: OmitArgPrefixes[ModelOptions] = field(default_factory=ModelOptions)
    training: OmitArgPrefixes[TrainingOptions] = field(default_factory=TrainingOptions)


def given(options: ModelOptions | TrainingOptions) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in dataclasses.asdict(options).items() if value is not None}
