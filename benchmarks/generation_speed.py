"""python -m benchmarks.generation_speed: inference at equal total parameters; writes results/speed/generation.*.

    X-MoE and MH-MoE (`compute`) of 8 and 32 experts, beside
    dense, as many parameters       the networks of the MoE blocks as wide as the mixture has parameters in all
    dense, as many FLOPs            the ordinary dense model: what a token computes

Introductions say that a mixture infers faster than a dense model of its size. Generation at batch 1 reads every weight
that a token uses, so there it is the weights' traffic that counts; a batch of tokens reaches more experts. Tokens a
second with the cache of keys and values, greedy, from a prompt; and of reading a prompt, all positions at once.

Random weights, so that routing is about even; float32, one thread. All models take their steps in turns. About two
minutes. `--render` writes the page again from the measurement that is there; `--quick` takes tiny sizes and writes into
the folder that follows.
"""

import sys
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch

from analysis.tables import Column, table_markdown
from baselines.dense import dense
from baselines.xmoe import xmoe
from benchmarks.measured_page import IN_BRACKETS, MeasuredPage, origin, seconds_after_prompt, time_to
from benchmarks.timing import in_turns
from mhmoe.cli import exit_code
from mhmoe.layers.config import LayerConfig
from mhmoe.layers.matching import match
from mhmoe.model.config import MHMoEConfig
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.loop import seed_parameters

NUM_EXPERTS = (8, 32)
BATCHES = {1: 64, 16: 8}
"""Prompts at once, and their length: what is generated is timed without them."""
SIZES: dict[str, Any] = {"hidden_size": 384, "num_hidden_layers": 4, "num_attention_heads": 6, "vocab_size": 8192}
QUICK: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 256}
GENERATED, ROUNDS = 8, 4
_PARTS = ("generate", "read")
COLUMNS = (
    Column("label", "model"),
    Column("parameters", "parameters (M)", ",.1f", 1e-6),
    Column("active", "active (M)", ",.1f", 1e-6),
    Column("flops", "MFLOPs a token", ",.1f", 1e-6),
    *(Column(f"generated_{batch}", f"generated tokens/s, batch {batch}", ",.1f") for batch in BATCHES),
    Column("prompt", "prompt tokens/s, batch 1", ",.0f"),
    *(Column(f"ratio_{batch}", f"to dense of equal parameters, batch {batch}") for batch in BATCHES),
)


def layers(dim: int, num_experts: int) -> dict[str, LayerConfig]:
    """What stands in the MoE blocks, by label."""
    plain, base = dense(dim), xmoe(dim, num_experts)
    per_width = plain.parameters() // plain.inner_dim
    return {
        f"dense, parameters of {num_experts} experts": plain.replace(inner_dim=round(base.parameters() / per_width)),
        f"X-MoE, {num_experts} experts": base,
        f"MH-MoE, {num_experts} experts, h = 4": match("compute", base, heads=4),
    }


def models(sizes: Mapping[str, Any]) -> dict[str, MHMoEConfig]:
    found: dict[str, LayerConfig | None] = {"dense, FLOPs of one expert": None}
    for num_experts in NUM_EXPERTS:
        found |= layers(sizes["hidden_size"], num_experts)
    length = max(BATCHES.values()) + GENERATED
    return {
        label: MHMoEConfig(**sizes, max_position_embeddings=length, moe=moe, eos_token_id=None, pad_token_id=0)
        for label, moe in found.items()
    }


def measure(sizes: Mapping[str, Any], rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """A dict a model: its counts, and the seconds of every timed call by what was done."""
    torch.set_num_threads(1)
    configs = models(sizes)
    prompts: dict[int, torch.Tensor] = {}

    def draw() -> None:
        for batch, length in BATCHES.items():
            prompts[batch] = torch.randint(1, sizes["vocab_size"], (batch, length))

    def generate(model: Any, batch: int) -> object:
        with torch.no_grad():
            return model.generate(prompts[batch], max_new_tokens=GENERATED, do_sample=False)

    def read(model: Any, batch: int) -> object:
        with torch.no_grad():
            return model(prompts[batch], logits_to_keep=1, use_cache=True)

    draw()
    steps: dict[str, Callable[[], object]] = {}
    for label, config in configs.items():
        model = MHMoEForCausalLM(config)
        seed_parameters(model, 0)
        model.eval()
        for batch in BATCHES:
            steps[f"{label}|generate {batch}"] = lambda model=model, batch=batch: generate(model, batch)
            steps[f"{label}|read {batch}"] = lambda model=model, batch=batch: read(model, batch)
    timings = in_turns(steps, draw, rounds=rounds, label="inference, 1 thread")
    return [
        {
            "label": label,
            "parameters": config.parameters(),
            "active": config.active_parameters(),
            "flops": config.flops_per_token(),
            "seconds": {
                key.split("|")[1]: timing.to_dict()["seconds"]
                for key, timing in timings.items()
                if key.split("|")[0] == label
            },
        }
        for label, config in configs.items()
    ]


def generated_per_second(row: Mapping[str, Any], batch: int, generated: int) -> float:
    """Tokens after the first, which the prompt's own pass gives."""
    seconds = seconds_after_prompt(row["seconds"][f"generate {batch}"], row["seconds"][f"read {batch}"])
    return batch * (generated - 1) / seconds


def markdown(data: Mapping[str, Any]) -> str:
    generated = data["generated"]
    table: list[dict[str, Any]] = []
    base: dict[str, Any] = {}
    for found in data["rows"]:
        row: dict[str, Any] = {name: found[name] for name in ("label", "parameters", "active", "flops")}
        for batch in BATCHES:
            row[f"generated_{batch}"] = generated_per_second(found, batch, generated)
        row["prompt"] = BATCHES[1] / median(found["seconds"]["read 1"])
        if row["label"].startswith("dense, parameters"):
            base = found["seconds"]
        elif base:
            of_batch = {
                batch: [[of[f"{what} {batch}"] for what in _PARTS] for of in (found["seconds"], base)]
                for batch in BATCHES
            }
            row |= {f"ratio_{batch}": str(time_to(*both)) for batch, both in of_batch.items()}
        table.append(row)
    sizes, rounds = data["sizes"], len(data["rows"][0]["seconds"]["read 1"])
    caption = (
        f"{origin(data)} Width {sizes['hidden_size']}, {sizes['num_hidden_layers']} blocks, half of them with the "
        f"layer that is named; random weights, float32; one prompt of {BATCHES[1]} tokens or 16 of {BATCHES[16]}, "
        f"{generated} generated; medians of {rounds} rounds. "
        f"{IN_BRACKETS}"
    )
    return (
        table_markdown(COLUMNS, table, title="Inference at equal total parameters", caption=[caption])
        + "\n\nGenerated: tokens after the first, with the cache. The dense model of equal parameters stands above the "
        "two mixtures that are compared with it. At batch 1 a token reads the weights of its own experts alone; 16 "
        "tokens at once read those of nearly all of 8 experts, and of many of 32.\n"
    )


def _measured(quick: bool) -> dict[str, Any]:
    sizes = QUICK if quick else SIZES
    return {"sizes": sizes, "generated": GENERATED, "rows": measure(sizes, rounds=2 if quick else ROUNDS)}


PAGE = MeasuredPage(name="generation_speed", stem="generation", measure=_measured, markdown=markdown)

if __name__ == "__main__":
    sys.exit(exit_code(lambda: PAGE.run(sys.argv[1:])))
