"""python -m benchmarks.generation_peers: `generate` at batch 1 beside transformers' Mixtral; results/speed/mixtral.*.

Models of one size and function: SwiGLU experts in every block, k = 2, renormalised weights, one attention, vocabulary;
8, 64 and 256 experts of one inner width, so that a token's arithmetic is the same (but for the router) and the number
of weights is not. Mixtral has its experts by each of transformers' implementations. Greedy, with the cache of keys and
values, random weights, float32, one thread; all models take their steps in turns, and the prompt's time is taken off.

About five minutes on an idle machine, with 4 GB. `--render` writes the page again from the measurement that is there;
`--quick FOLDER` takes tiny sizes and writes there.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MixtralConfig, MixtralForCausalLM

from analysis.tables import Column, table_markdown
from benchmarks.generation_speed import QUICK, SIZES
from benchmarks.measured_page import IN_BRACKETS, MeasuredPage, origin, seconds_after_prompt, time_to
from benchmarks.timing import in_turns
from mhmoe.cli import exit_code
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.routers import DotProductRouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig
from mhmoe.model.config import MHMoEConfig
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.seeding import seed_parameters

NUM_EXPERTS, TOP_K = (8, 64, 256), 2
IMPLEMENTATIONS = ("eager", "batched_mm", "grouped_mm")
PROMPT, GENERATED, ROUNDS = 16, 32, 8
OURS = "ours"
COLUMNS = (
    Column("num_experts", "experts"),
    Column("label", "model"),
    Column("parameters", "parameters (M)", ",.1f", 1e-6),
    Column("rate", "generated tokens/s", ",.1f"),
    Column("ratio", "time to ours"),
    Column("verdict", "ours not slower"),
)


def ours(sizes: Mapping[str, Any], num_experts: int) -> MHMoEForCausalLM:
    """Our model of a Mixtral's parts."""
    width = sizes["hidden_size"]
    moe = SparseMoEConfig(
        router=DotProductRouterConfig(dim=width, num_experts=num_experts, top_k=TOP_K, renormalize=True),
        experts=ExpertsConfig(dim=width, num_experts=num_experts, expert_dim=inner(sizes), activation="swiglu"),
    )
    length = PROMPT + GENERATED
    fixed = {
        "moe": moe,
        "moe_every": 1,
        "tie_word_embeddings": False,
        "max_position_embeddings": length,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    model = MHMoEForCausalLM(MHMoEConfig(**sizes, **fixed))
    seed_parameters(model, 0)
    return model.eval()


def inner(sizes: Mapping[str, Any]) -> int:
    """The experts' width: narrow, so that 256 of them fit a small machine."""
    return 2 * sizes["hidden_size"] // 3


def mixtral(model: MHMoEForCausalLM, implementation: str) -> MixtralForCausalLM:
    """transformers' model of the same function, which shares the weights of ours."""
    own = model.config
    config = MixtralConfig(
        vocab_size=own.vocab_size,
        hidden_size=own.hidden_size,
        num_hidden_layers=own.num_hidden_layers,
        num_attention_heads=own.num_attention_heads,
        num_key_value_heads=own.num_attention_heads,
        num_local_experts=1,  # replaced below: two sets of large weights would not fit
        num_experts_per_tok=TOP_K,
        max_position_embeddings=own.max_position_embeddings,
        tie_word_embeddings=False,
        rms_norm_eps=own.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": own.rope_theta},
        eos_token_id=None,
        pad_token_id=0,
    )
    config._experts_implementation = implementation
    built: Any = MixtralForCausalLM(config)
    blocks: Any = model.model.layers
    built.model.embed_tokens.weight.data = model.model.scale * model.model.embed_tokens.weight.data
    built.model.norm.weight, built.lm_head.weight = model.model.norm.weight, model.lm_head.weight
    for theirs, block in zip(built.model.layers, blocks, strict=True):
        mixture = block.feed_forward
        theirs.input_layernorm.weight = block.attention_norm.weight
        theirs.post_attention_layernorm.weight = block.feed_forward_norm.weight
        for name, part in zip("qkv", block.attention.qkv_proj.weight.chunk(3), strict=True):
            getattr(theirs.self_attn, f"{name}_proj").weight = nn.Parameter(part)
        theirs.self_attn.o_proj.weight = block.attention.o_proj.weight
        theirs.mlp.experts.num_experts = mixture.experts.num_experts
        theirs.mlp.gate.weight = mixture.router.expert_embeddings
        theirs.mlp.experts.gate_up_proj = mixture.experts.up_proj
        theirs.mlp.experts.down_proj = mixture.experts.down_proj
    return built.eval()


def measure(sizes: Mapping[str, Any], rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """A dict a model: its sizes, and the seconds of every timed call by what was done."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for num_experts in NUM_EXPERTS:
        mine = ours(sizes, num_experts)
        models: dict[str, Any] = {OURS: mine}
        models |= {f"Mixtral, {name}": mixtral(mine, name) for name in IMPLEMENTATIONS}
        prompt = torch.zeros(1, PROMPT, dtype=torch.long)
        steps: dict[str, Callable[[], object]] = {}
        for label, model in models.items():
            steps[f"{label}|generate"] = partial(generate, model, prompt)
            steps[f"{label}|read"] = partial(generate, model, prompt, 1)
        timings = in_turns(
            steps,
            partial(draw, prompt, sizes["vocab_size"]),
            rounds=rounds,
            label=f"generation, {num_experts} experts, 1 thread",
        )
        for label in models:
            seconds = {what: timings[f"{label}|{what}"].to_dict()["seconds"] for what in ("generate", "read")}
            rows.append(
                {
                    "num_experts": num_experts,
                    "label": label,
                    "parameters": mine.config.parameters(),
                    "seconds": seconds,
                }
            )
    return rows


def draw(prompt: Tensor, vocabulary: int) -> None:
    prompt.random_(1, vocabulary)


@torch.no_grad()
def generate(model: Any, prompt: Tensor, tokens: int = GENERATED) -> Tensor:
    mask = torch.ones_like(prompt)
    return model.generate(prompt, attention_mask=mask, max_new_tokens=tokens, do_sample=False)


def seconds_per_token(row: Mapping[str, Any], generated: int) -> float:
    """Of the tokens after the first, which the prompt's own pass gives."""
    return seconds_after_prompt(row["seconds"]["generate"], row["seconds"]["read"]) / (generated - 1)


def markdown(data: Mapping[str, Any]) -> str:
    generated, table = data["generated"], list[dict[str, Any]]()
    base = {row["num_experts"]: _rounds(row) for row in data["rows"] if row["label"] == OURS}
    for found in data["rows"]:
        row = {name: found[name] for name in ("num_experts", "label", "parameters")}
        row["rate"] = 1 / seconds_per_token(found, generated)
        if found["label"] != OURS:
            ratio = time_to(base[found["num_experts"]], _rounds(found))
            row["ratio"] = str(ratio)
            if not data["quick"]:
                row["verdict"] = "yes" if ratio.low >= 1 else "no" if ratio.high < 1 else "not told"
        table.append(row)
    sizes, rounds = data["sizes"], len(data["rows"][0]["seconds"]["read"])
    caption = (
        f"{origin(data)} Width {sizes['hidden_size']}, {sizes['num_hidden_layers']} blocks, in each SwiGLU experts of "
        f"inner width {inner(sizes)}, k = {TOP_K}; both share all weights, which are random, and give the same tokens; "
        f"float32; prompts of {PROMPT} tokens, {generated} generated; medians of {rounds} rounds. "
        f"{IN_BRACKETS}"
    )
    return table_markdown(COLUMNS, table, title="Generation at batch 1, beside Mixtral", caption=[caption]) + "\n"


def _rounds(row: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    return row["seconds"]["generate"], row["seconds"]["read"]


def _measured(quick: bool) -> dict[str, Any]:
    sizes = QUICK if quick else SIZES
    return {"sizes": sizes, "generated": GENERATED, "rows": measure(sizes, rounds=2 if quick else ROUNDS)}


PAGE = MeasuredPage(name="generation_peers", stem="mixtral", measure=_measured, markdown=markdown)

if __name__ == "__main__":
    sys.exit(exit_code(lambda: PAGE.run(sys.argv[1:])))
