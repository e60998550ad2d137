"""The training benchmark. `python -m benchmarks.training_speed SETTINGS` measures and prints JSON.

Every system of Tables 1 and 5 and of Figure 6 at the cpu scale's sizes, on one thread: forward, backward, clipping
and the optimiser's step, as the training loop does them, on generated tokens whose frequencies follow Zipf's law.
The systems take their steps in turns. Two of them also run through torch.compile.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.timing import Timing, count_threads, in_own_process, in_turns, seconds_of
from experiments.figure6_scaling_experts import PAGE as FIGURE6
from experiments.runner.runs import model_config
from experiments.scales import CPU, SMOKE, Scale
from experiments.system import System
from experiments.systems import compared
from experiments.table5_head_number import HEADS
from experiments.table5_head_number import rows as table5
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.config import TrainingConfig
from mhmoe.training.loop import make_optimizer, seed_parameters
from mhmoe.training.objective import Objective, accumulate_gradients

STEPS, WARM_UP = 20, 3
STATE_BYTES = 12  # of a parameter: in float32 the weight and its two moments
COMPILED = ("dense", "mhmoe_8_compute")


def measure_training(quick: bool, deadline: float) -> dict[str, Any]:
    seconds = max(deadline - time.monotonic(), 0)
    return in_own_process("benchmarks.training_speed", {"quick": quick, "seconds": seconds}, threads=1)


def measure_systems(quick: bool, seconds: float) -> dict[str, Any]:
    """Rows by system and whether compiled. Nothing is compiled in a quick run: that takes a minute."""
    deadline = time.monotonic() + seconds
    scale = SMOKE if quick else CPU
    batch = {"batch_sequences": 4} if quick else {}
    config = TrainingConfig(**{**scale.training, **batch}, learning_rate=1e-3)
    tokens = Tokens(config, scale.model["vocab_size"])
    pages = () if quick else (*table5(HEADS), *FIGURE6.rows)
    named = {s.name: s for s in (*(system for system, _ in compared()), *(row.system for row in pages))}
    systems = [system for system in named.values() if not system.settled_by]  # a search says what those are
    steps = {(s.name, False): training_step(scale, s, config, tokens) for s in systems}
    compiling: dict[tuple[str, bool], dict[str, Any]] = {}
    for system in systems:
        if system.name in COMPILED and not quick:
            steps[system.name, True] = training_step(scale, system, config, tokens, compiled=True)
            compiling[system.name, True] = outcome(steps[system.name, True])
    steps = {key: step for key, step in steps.items() if not compiling.get(key, {}).get("note")}
    timings = in_turns(
        {json.dumps(key): step for key, step in steps.items()},
        tokens.draw,
        rounds=2 if quick else STEPS,
        warm_up=2 if quick else WARM_UP,  # the first step also makes the optimiser's moments
        deadline=deadline,
        label=f"training, {count_threads(torch.get_num_threads())}, {config.precision}",
    )
    labels = {s.name: s for s in systems}
    rows: list[dict[str, Any]] = []
    for name, compiled in [*((s.name, False) for s in systems), *compiling]:
        timing = timings.get(json.dumps((name, compiled)), Timing())
        sizes = model_config(scale, labels[name])
        rows.append(
            {
                "system": name,
                "label": labels[name].label,
                "compiled": compiled,
                "parameters": sizes.parameters(),
                "flops_per_token": sizes.flops_per_token(config.length),
                **timing.to_dict(),
                "held_bytes": None if timing.memory is None else timing.memory + STATE_BYTES * sizes.parameters(),
                **compiling.get((name, compiled), {}),
            }
        )
    return {
        "scale": scale.name,
        "precision": config.precision,
        "threads": torch.get_num_threads(),
        "tokens_per_step": config.tokens_per_step,
        "rows": rows,
    }


class Tokens:
    """One batch of sequences, drawn anew for every round."""

    def __init__(self, config: TrainingConfig, vocab_size: int) -> None:
        self.frequency = 1 / torch.arange(1, vocab_size + 1)
        self.shape = (config.batch_sequences, config.length + 1)
        self.draw()

    def draw(self) -> None:
        count = self.shape[0] * self.shape[1]
        self.batch: Tensor = torch.multinomial(self.frequency, count, replacement=True).view(self.shape)


def training_step(
    scale: Scale, system: System, config: TrainingConfig, tokens: Tokens, compiled: bool = False
) -> Callable[[], object]:
    """One step of the training loop, on whatever batch `tokens` holds."""
    model = MHMoEForCausalLM(model_config(scale, system))
    seed_parameters(model, 0)
    model.train()
    optimizer = make_optimizer(model, config)
    objective: nn.Module = Objective(model, config.precision)
    if compiled:
        objective = torch.compile(objective, dynamic=False)  # pyright: ignore[reportAssignmentType]

    def step() -> None:
        accumulate_gradients(objective, tokens.batch, config, model.config.balance_weight)
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step


def outcome(step: Callable[[], object]) -> dict[str, Any]:
    """Seconds of a first step, which compiles, or why it does not run: a machine may have no compiler."""
    try:
        return {"compile_seconds": round(seconds_of(step), 3)}
    except Exception as error:
        return {"note": f"not run: {(str(error).strip() or type(error).__name__).splitlines()[0][:200]}"}


def main(settings: Mapping[str, Any]) -> None:
    print(json.dumps(measure_systems(**settings)))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
