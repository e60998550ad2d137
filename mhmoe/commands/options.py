"""What `train` is told. Every field of the model's and of the training's config is an option too: None takes the
preset's, else the config's own default.

The layers have options of their own (systems.py), and tokens that mean something come from the tokenizer.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, arg

from mhmoe.commands.presets import PRESETS

# Options that may be left out; the help need not say that None is then the default.
Whole = Annotated[int | None, arg(metavar="INT", help_behavior_hint="")]
Number = Annotated[float | None, arg(metavar="NUMBER", help_behavior_hint="")]
Truth = Annotated[bool | None, arg(metavar="True|False", help_behavior_hint="")]
Place = Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")]
Name = Annotated[str, arg(metavar="NAME", help_behavior_hint="")]
HELD_OUT_TOKENS = 200_000  # of valid and of test, at most: what `train` scores, and `eval` as well
PRESET_HELP = "A model, its training and how much is read. " + ". ".join(
    f"{name}: {preset.purpose}" for name, preset in PRESETS.items()
)


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

    vocab_size: Whole = None
    hidden_size: Whole = None
    num_hidden_layers: Whole = None
    num_attention_heads: Whole = None
    max_position_embeddings: Whole = None
    moe_every: Whole = None
    moe_offset: Whole = None
    norm: Annotated[Literal["rms", "layer"] | None, arg(metavar="rms|layer", help_behavior_hint="")] = None
    norm_eps: Number = None
    attention_bias: Truth = None
    attention_precision: Annotated[
        Literal["full", "bitnet"] | None, arg(metavar="full|bitnet", help_behavior_hint="")
    ] = None
    rope_theta: Number = None
    tie_word_embeddings: Truth = None
    balance_weight: Number = None


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

    steps: Whole = None
    batch_sequences: Whole = None
    length: Whole = None
    learning_rate: Number = None
    warmup: Number = None
    betas: Annotated[tuple[float, float] | None, arg(metavar="NUMBER NUMBER", help_behavior_hint="")] = None
    eps: Number = None
    weight_decay: Number = None
    clip_norm: Number = None
    micro_batches: Whole = None
    precision: Annotated[
        Literal["float32", "bfloat16"] | None, arg(metavar="float32|bfloat16", help_behavior_hint="")
    ] = None
    compile: Truth = None
    evaluations: Whole = None
    evaluation_windows: Whole = None
    mup_scaled: Annotated[
        tuple[Literal["up_proj", "down_proj"], ...] | None, arg(metavar="MATRIX ...", help_behavior_hint="")
    ] = None
    lr_multipliers: Annotated[
        tuple[tuple[Literal["head", "merge", "experts", "router"], float], ...] | None,
        arg(metavar="PART NUMBER ...", help_behavior_hint=""),
    ] = None
    base_width: Whole = None


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a language model on text of your own. The same command goes on where it was interrupted.

    Attributes:
        data: a text file, .jsonl, .jsonl.gz, a folder of such, a folder saved by datasets, owner/name@COMMIT of the
            hub, a folder of corpora with manifest.json, or one made by `python -m experiments pack`.
        out: folder for the model; else NAME-SYSTEM here, after the text's name.
        tokenizer: folder or hub name of any Hugging Face tokenizer; else a BPE is trained on the text.
        system: mhmoe, xmoe, switch, mixtral, deepseekmoe or dense.
        heads: of MH-MoE.
        experts: of the mixture, or of the one whose size MH-MoE has; of deepseekmoe before they are cut in four.
        expert_dim: inner width of an expert of that mixture; 4 times the model's.
        top_k: experts that a token or sub-token chooses, of deepseekmoe before they are cut; the system's.
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
    out: Place = None
    tokenizer: Name = ""
    system: str = "mhmoe"
    preset: Annotated[str, arg(metavar="NAME", help=PRESET_HELP)] = "laptop"
    heads: int = 4
    experts: int = 8
    expert_dim: Whole = None
    top_k: Whole = None
    matching: str = "equal-flops"
    layer: Place = None
    epochs: Number = None
    max_tokens: Whole = None
    seed: int = 1
    device: str = "auto"
    shard: bool = False
    expert_parallel: int = 1
    time_budget: Number = None
    log_every: int = 10
    tensorboard: Place = None
    wandb: Name = ""
    trackio: Name = ""
    model: OmitArgPrefixes[ModelOptions] = field(default_factory=ModelOptions)
    training: OmitArgPrefixes[TrainingOptions] = field(default_factory=TrainingOptions)


def given(options: ModelOptions | TrainingOptions) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in dataclasses.asdict(options).items() if value is not None}
