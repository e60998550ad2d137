"""The one training loop, over the losses of `objective`.

Which tokens a step sees, and where a parameter starts, are pure functions of the seed, so a run resumed from
its last checkpoint ends with the weights of one never interrupted, to the bit. Another number of micro-batches
or processes changes the order of sums and nothing else, unless experts have a capacity, whose drops depend on
how the batch is cut, or routers draw, which every process does by itself: the runs then have different
fingerprints. (Micro-batches are part of the config, and so of the fingerprint, in any case.)
"""

import math
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from mhmoe.cli import OutOfTime
from mhmoe.data.batches import TrainingBatches
from mhmoe.data.masking import MaskedBatches, Masking
from mhmoe.data.packing import PackedDataset
from mhmoe.display import display
from mhmoe.io import RunError, UserError, remove_leftovers
from mhmoe.model.config import MHMoEConfig
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.allocator import KeptMemory
from mhmoe.training.checkpoint import TrainState, load_checkpoint, save_checkpoint
from mhmoe.training.config import Sharding, TrainingConfig, identity
from mhmoe.training.evaluation import evaluate
from mhmoe.training.objective import Accumulated, Objective, rebalance
from mhmoe.training.optimizer import make_optimizer as make_optimizer  # where earlier code looks for it
from mhmoe.training.record import fingerprint
from mhmoe.training.record_checks import Evaluation, Point, TrainedPoint
from mhmoe.training.replay import Gradients
from mhmoe.training.seeding import drawing
from mhmoe.training.seeding import seed_parameters as seed_parameters  # likewise
from mhmoe.training.sharded_checkpoint import holds_sharded, load_sharded, save_sharded
from mhmoe.training.sharding import check_trainable, clip_gradients, evaluating, shard
from mhmoe.training.watch import Watch


def train(
    model: MHMoEForCausalLM,
    text: PackedDataset,
    config: TrainingConfig,
    *,
    seed: int,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    deadline: float = math.inf,
    label: str = "",
    sharding: Sharding | None = None,
    watch: Watch | None = None,
) -> TrainState | None:
    """Train `model` from its current parameters; returns None when `deadline` (time.monotonic) came first.

    With `checkpoint`, state is written there at least every `checkpoint_seconds` and at the deadline; if the file
    exists, training goes on from it, wherever the parameters of that run started. The deadline is looked at after every
    step and evaluation, of which one is always done; within `cli.stopped_at`, a long one is stopped too, and repeated
    the next time.
    With `sharding` the model is laid out among the processes that have met (torch.distributed), and stays so; on the
    meta device it is made there from `seed`. The checkpoint is then a folder, which runs of any other number of
    processes go on from, with or without sharding. Without it several processes have a copy each (DDP).
    `watch` is told what happens; the run is the same without.
    Raises UserError on text that the model cannot read, a loss that is not finite, on a checkpoint that is damaged
    or another run's, and when one cannot be written.
    """
    _check_readable(model.config, text, config)
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if world < int(os.environ.get("WORLD_SIZE", "1")):
        raise UserError("the processes of torchrun have not met; call torch.distributed.init_process_group before")
    if sharding is not None:
        check_trainable(sharding, config)
        shard(model, sharding, seed)
    device = next(model.parameters()).device
    optimizer = make_optimizer(model, config)
    batches = TrainingBatches(text.train, config.length, config.batch_sequences, seed)
    masking = Masking.of(text, dict(config.masked)) if config.masked else None
    if masking is not None:
        batches = MaskedBatches(batches=batches, masking=masking)
    run = fingerprint(identity(model.config, config, text.fingerprint, world, sharding), seed)
    progress = TrainState()
    in_folder = checkpoint is not None and (sharding is not None or holds_sharded(checkpoint))
    if checkpoint is not None:
        if rank == 0:
            remove_leftovers(checkpoint.parent)
        if in_folder:
            progress = load_sharded(checkpoint, model, optimizer, config, run) or progress
        elif checkpoint.exists():
            progress = load_checkpoint(checkpoint, model, optimizer, config, run)

    objective: nn.Module = Objective(model, config.precision)
    if world > 1 and sharding is None:
        objective = nn.parallel.DistributedDataParallel(objective, gradient_as_bucket_view=True)
    if config.compile:
        torch.compiler.reset()  # one run's graphs are of no use to the next
        objective = torch.compile(objective, dynamic=False)  # pyright: ignore[reportAssignmentType]
    gradients = Gradients(objective, config, model.config.balance_weight, None if masking is None else masking.mask)

    def save() -> None:
        if checkpoint is not None and in_folder:
            save_sharded(checkpoint, model, optimizer, progress, run)
        elif checkpoint is not None and rank == 0:
            save_checkpoint(checkpoint, model, optimizer, progress, run)

    def stop_unless_finite(value: float, what: str) -> None:
        if not math.isfinite(value):
            raise RunError(
                f"{label + ': ' if label else ''}the {what} is not finite at step {progress.step} ({value}); "
                f"nothing was written for this step. Lower learning_rate={config.learning_rate}"
            )

    optimizer.zero_grad()  # whatever a caller, or a step that was stopped, has left
    if watch is not None:
        watch.begin(progress.step, progress.seconds, progress.step * config.tokens_per_step)
    model.train()
    bar = display(
        label or "training",
        config.steps * config.tokens_per_step,
        done=progress.step * config.tokens_per_step,
        quiet=rank != 0,
    )
    kept = KeptMemory()
    saved = begun = time.monotonic()
    earlier = progress.seconds
    with bar:
        while progress.step < config.steps or progress.due is not None:
            begun_work, evaluation, losses = time.monotonic(), None, Accumulated(0.0, 0.0, ())
            try:  # what takes long, and changes neither weights nor progress
                if progress.due is not None:
                    with evaluating(sharding, device):
                        most = config.evaluation_windows
                        evaluation = evaluate(model, text.valid, config.length, max_windows=most, masking=masking)
                else:
                    tokens = torch.from_numpy(batches.batch(progress.step, rank, world)).to(device)
                    with drawing(model, seed, progress.step, rank):
                        losses = gradients(tokens)
            except OutOfTime:
                if not in_folder or world == 1:  # else all would have to save together, wherever each was stopped
                    save()
                return None
            if progress.due is not None and evaluation is not None:
                stop_unless_finite(evaluation["nll_per_token"], "loss on valid")
                progress.curve.append(_evaluated(progress.due, evaluation))
                progress.due = None
                bar.note(f"valid perplexity {evaluation['perplexity']:.2f}")
                if watch is not None:
                    watch.evaluated(progress.curve[-1], None if sharding else model, text.valid, config.length)
                begun += time.monotonic() - begun_work  # training time alone
            else:
                norm = clip_gradients(model, config.clip_norm)  # all meet here, before one of them may stop
                stop_unless_finite(losses.nll, "task loss")
                stop_unless_finite(losses.balance, "balance loss")
                stop_unless_finite(float(norm), "gradient's norm")
                for group in optimizer.param_groups:
                    group["lr"] = config.rate(progress.step) * group["lr_multiplier"]
                optimizer.step()
                optimizer.zero_grad()
                rebalance(model, losses.loads)
                kept.bound()
                progress.step += 1
                bar.update(config.tokens_per_step)
                progress.seconds = earlier + time.monotonic() - begun
                if watch is not None and watch.wants(progress.step, config.steps):
                    watch.step(
                        step=progress.step,
                        tokens=progress.step * config.tokens_per_step,
                        seconds=progress.seconds,
                        losses=_means_over_processes(device, losses.nll, losses.balance),
                        learning_rate=config.rate(progress.step - 1),
                        norm=float(norm),
                        loads=losses.loads,
                    )
                if config.evaluates_after(progress.step):
                    progress.due = _curve_point(
                        config, progress, _means_over_processes(device, losses.nll, losses.balance)
                    )
                    continue
            # Agreed on by all processes: one that went on alone would wait for the others for ever.
            late = deadline < math.inf and any(_means_over_processes(device, float(time.monotonic() >= deadline)))
            if late and progress.step < config.steps:
                save()
                return None
            due = time.monotonic() - saved >= checkpoint_seconds
            if in_folder:
                due = any(_means_over_processes(device, float(due)))
            if due:
                save()
                saved = time.monotonic()
    save()
    return progress


def check_length(model: MHMoEConfig, config: TrainingConfig) -> None:
    """Raises UserError on sequences that are longer than what the model reads at once."""
    if config.length > model.max_position_embeddings:
        raise UserError(
            f"length={config.length} exceeds the model's max_position_embeddings={model.max_position_embeddings}; "
            "train on shorter sequences, or make a model that reads longer ones"
        )


def _check_readable(model: MHMoEConfig, text: PackedDataset, config: TrainingConfig) -> None:
    check_length(model, config)
    if bool(config.masked) is model.is_causal:
        raise UserError(
            f"a model with is_causal={model.is_causal} cannot be trained with masked={config.masked}; a model of the "
            "next token needs none, one of masked tokens a share of each kind"
        )
    largest = max(int(tokens.max()) for tokens in (text.train, text.valid.tokens, text.test.tokens))
    if largest >= model.vocab_size:
        raise UserError(
            f"the text has token {largest}, the model vocab_size={model.vocab_size}; "
            f"make a model with a vocabulary of at least {largest + 1}, or pack the text with a smaller one"
        )


def _means_over_processes(device: torch.device, *values: float) -> list[float]:
    if not dist.is_initialized():
        return list(values)
    means = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(means)
    return (means / dist.get_world_size()).tolist()


def _curve_point(config: TrainingConfig, progress: TrainState, losses: list[float]) -> TrainedPoint:
    """The point of the curve after this step, but for what its evaluation says."""
    return {
        "step": progress.step,
        "tokens": progress.step * config.tokens_per_step,
        "seconds": round(progress.seconds, 3),
        "task_loss": losses[0],
        "balance_loss": losses[1],
    }


def _evaluated(point: TrainedPoint, found: Evaluation) -> Point:
    return {**point, "valid_nll": found["nll_per_token"], "valid_bits_per_byte": found["bits_per_byte"]}
