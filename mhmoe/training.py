"""The one training loop.

    L = sum over the global batch of nll / its number of tokens
        + balance_weight * mean over its micro-batches of L_balance                        (v1 Eq. 11)

Both terms are normalised once per global batch, whatever the number of micro-batches and processes:
accumulation and data parallelism change the arithmetic's order and nothing else. Which tokens a step
sees, and where a parameter starts, are pure functions of the seed, so a run resumed from its last
checkpoint ends with the weights of one never interrupted.
"""

import hashlib
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from mhmoe.batches import EvaluationSet, TrainingBatches
from mhmoe.configuration import MHMoEConfig
from mhmoe.evaluation import evaluate, token_nll
from mhmoe.language_model import MHMoEForCausalLM
from mhmoe.memory import KeptMemory
from mhmoe.packing import PackedText
from mhmoe.progress import Progress, load_checkpoint, save_checkpoint
from mhmoe.records import UserError, fingerprint, remove_leftovers
from mhmoe.training_config import TrainingConfig


class Objective(nn.Module):
    """Both losses of one micro-batch: the summed nll in nats, and the balance loss (0 without routing).

    A module of its own so that compilation and data parallelism wrap the losses and not the model.
    """

    def __init__(self, model: MHMoEForCausalLM, precision: str) -> None:
        super().__init__()
        self.model, self.low_precision = model, precision == "bfloat16"

    def forward(
        self, inputs: Int[Tensor, "batch length"], targets: Int[Tensor, "batch length"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.low_precision):
            output = self.model(inputs)
        nll = token_nll(output.logits, targets).sum()
        return nll, output.balance_loss if output.balance_loss is not None else nll.new_zeros(())


def seed_parameters(model: MHMoEForCausalLM, seed: int) -> None:
    """Draw every parameter anew from the seed and its module's name: systems start from what they share."""
    with torch.random.fork_rng(devices=[]):
        for name, module in model.named_modules():
            torch.manual_seed(int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7]))
            model._init_weights(module)  # pyright: ignore[reportPrivateUsage]
    model.tie_weights()


def make_optimizer(model: MHMoEForCausalLM, config: TrainingConfig) -> torch.optim.AdamW:
    """Matrices with weight decay, all else without; a group for each `rate_factor` of the learning rate."""
    groups = dict[tuple[float, float], list[nn.Parameter]]()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # The experts' biases and norms are stacked, so the number of axes alone does not tell.
            is_matrix = parameter.ndim >= 2 and not name.endswith("bias") and "norm." not in name
            decay = config.weight_decay if is_matrix else 0.0
            factor = _rate_factor(name, parameter, model.config.hidden_size, config) if is_matrix else 1.0
            groups.setdefault((decay, factor), []).append(parameter)
    described = [{"params": p, "weight_decay": decay, "rate_factor": f} for (decay, f), p in groups.items()]
    return torch.optim.AdamW(described, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True)


def _rate_factor(name: str, matrix: Tensor, dim: int, config: TrainingConfig) -> float:
    for part, width in (("up_proj", dim), ("down_proj", 4 * dim)):
        if part in config.scaled_rates and part in name.split("."):
            return width / matrix.shape[-1]
    return 1.0


def accumulate_gradients(
    objective: nn.Module,
    tokens: Int[Tensor, "sequences length_plus_1"],
    config: TrainingConfig,
    balance_weight: float,
) -> tuple[float, float]:
    """Gradients of L for this process's share `tokens` of a global batch, added to `.grad`.

    Under DDP, whose all-reduce is a mean, the gradient of L results on every process.
    Returns this process's mean nll per token, and mean balance loss.
    """
    parts = tokens.chunk(config.micro_batches)
    count = tokens.shape[0] * (tokens.shape[1] - 1)
    total_nll = total_balance = 0.0
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if isinstance(objective, nn.parallel.DistributedDataParallel):
            objective.require_backward_grad_sync = last
        nll, balance = objective(part[:, :-1], part[:, 1:])
        (nll / count + balance_weight * balance / len(parts)).backward()
        total_nll += nll.item()
        total_balance += balance.item()
    return total_nll / count, total_balance / len(parts)


def train(
    model: MHMoEForCausalLM,
    text: PackedText,
    config: TrainingConfig,
    *,
    seed: int,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    deadline: float = math.inf,
    label: str = "",
) -> Progress | None:
    """Train `model` from its current parameters; returns None when `deadline` (time.monotonic) came first.

    With `checkpoint`, state is written there at least every `checkpoint_seconds` and at the deadline; if
    the file exists, training goes on from it. Raises UserError on sequences longer than the model was made
    for, on a loss that is not finite, on a checkpoint that cannot be read or is another run's, and when one
    cannot be written.
    """
    if config.length > (longest := model.config.max_position_embeddings):
        raise UserError(f"length={config.length} exceeds the model's max_position_embeddings={longest}; lower length")
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = next(model.parameters()).device
    optimizer = make_optimizer(model, config)
    batches = TrainingBatches(text.train, config.length, config.batch_sequences, seed)
    run = fingerprint(
        {
            "model": {name: getattr(model.config, name) for name in MHMoEConfig.__annotations__},
            "training": config.to_dict(),
            "data": text.fingerprint,
        },
        seed,
    )
    progress = Progress()
    if checkpoint is not None:
        if rank == 0:
            remove_leftovers(checkpoint)
        if checkpoint.exists():
            progress = load_checkpoint(checkpoint, model, optimizer, run)

    objective: nn.Module = Objective(model, config.precision)
    if world > 1:
        objective = nn.parallel.DistributedDataParallel(objective)
    if config.compile:
        torch.compiler.reset()  # one run's graphs are of no use to the next
        objective = torch.compile(objective, dynamic=False)  # pyright: ignore[reportAssignmentType]

    def save() -> None:
        if checkpoint is not None and rank == 0:
            save_checkpoint(checkpoint, model, optimizer, progress, run)

    def stop_unless_finite(value: float, what: str) -> None:
        if not math.isfinite(value):
            raise UserError(
                f"{label + ': ' if label else ''}the {what} is not finite at step {progress.step} ({value}); "
                f"nothing was written for this step. Lower learning_rate={config.learning_rate}"
            )

    model.train()
    bar = tqdm(
        total=config.steps * config.tokens_per_step,
        initial=progress.step * config.tokens_per_step,
        desc=label,
        unit="tok",
        unit_scale=True,
        disable=rank != 0,
        mininterval=0.5 if sys.stderr.isatty() else 30.0,
    )
    kept = KeptMemory()
    saved = begun = time.monotonic()
    earlier = progress.seconds
    with bar:
        while progress.step < config.steps:
            tokens = torch.from_numpy(batches.batch(progress.step, rank, world)).to(device)
            task_loss, balance = accumulate_gradients(objective, tokens, config, model.config.balance_weight)
            stop_unless_finite(task_loss, "task loss")
            stop_unless_finite(balance, "balance loss")
            norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            stop_unless_finite(float(norm), "gradient's norm")
            for group in optimizer.param_groups:
                group["lr"] = config.rate(progress.step) * group["rate_factor"]
            optimizer.step()
            optimizer.zero_grad()
            kept.bound()
            progress.step += 1
            bar.update(config.tokens_per_step)
            progress.seconds = earlier + time.monotonic() - begun
            if config.evaluates_after(progress.step):
                begun_evaluation = time.monotonic()
                task_loss, balance = _means_over_processes(device, task_loss, balance)
                point = _curve_point(model, text.valid, config, progress, task_loss, balance)
                stop_unless_finite(point["valid_nll"], "loss on valid")
                progress.curve.append(point)
                bar.set_postfix(valid_ppl=f"{math.exp(min(point['valid_nll'], 700.0)):.2f}")
                begun += time.monotonic() - begun_evaluation  # training time alone
            # Agreed on by all processes: one that went on alone would wait for the others for ever.
            late = deadline < math.inf and any(_means_over_processes(device, float(time.monotonic() >= deadline)))
            if late and progress.step < config.steps:
                save()
                return None
            if time.monotonic() - saved >= checkpoint_seconds:
                save()
                saved = time.monotonic()
    save()
    return progress


def _means_over_processes(device: torch.device, *values: float) -> list[float]:
    if not dist.is_initialized():
        return list(values)
    means = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(means)
    return (means / dist.get_world_size()).tolist()


def _curve_point(
    model: MHMoEForCausalLM,
    valid: EvaluationSet,
    config: TrainingConfig,
    progress: Progress,
    task_loss: float,
    balance: float,
) -> dict[str, Any]:
    evaluation = evaluate(model, valid, config.length, max_windows=config.evaluation_windows)
    return {
        "step": progress.step,
        "tokens": progress.step * config.tokens_per_step,
        "seconds": round(progress.seconds, 3),
        "task_loss": task_loss,
        "balance_loss": balance,
        "valid_nll": evaluation["nll_per_token"],
        "valid_bits_per_byte": evaluation["bits_per_byte"],
    }
