"""What an installed `mhmoe` must do, one line a check; exit code 1 if any fails.

`tests/fresh_install.py` runs this file in an empty folder with an interpreter that has the wheel, what pip drew with
it, and nothing else: so it uses no pytest and nothing of this repository but `mhmoe`.
"""

import contextlib
import io
import os
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import mhmoe
from mhmoe.__main__ import main as command_line
from mhmoe.data.packing import PackingConfig, pack
from mhmoe.data.synthetic import GeneratedCorpus
from mhmoe.training.config import TrainingConfig
from mhmoe.training.loop import train

CHECKS: list[Callable[[], str]] = []
BACKEND = sys.argv[1]  # of torch.compile
DIM = 32
VOCABULARY = 320
TOKENS = torch.randint(VOCABULARY, (2, 17), generator=torch.Generator().manual_seed(0))
X = torch.randn(2, 9, DIM, generator=torch.Generator().manual_seed(1))

# For a process in which nobody imports mhmoe: transformers finds it through the folder's own few lines.
LOAD = """
import sys, torch
from pathlib import Path
from transformers import AutoModelForCausalLM

assert "mhmoe" not in sys.modules
for folder in sorted(Path("saved").iterdir()):
    tokens, logits = torch.load(folder / "expected.pt")
    loaded = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    assert torch.equal(loaded(tokens).logits, logits), f"{folder.name}: other logits"
"""


def check(function: Callable[[], str]) -> Callable[[], str]:
    """Register a check. Its name is the claim, and it returns what it saw."""
    CHECKS.append(function)
    return function


def check_of_torch(function: Callable[[], str]) -> Callable[[], str]:
    """Register one in which torch alone has a part: with its locked version the tests have asked it already."""
    if sys.argv[2:] != ["locked"]:
        CHECKS.append(function)
    return function


def models() -> Iterator[tuple[str, Any]]:
    """Each kind of model, by name."""
    router = mhmoe.XMoERouterConfig(dim=DIM, num_experts=4, router_dim=8)
    xmoe = mhmoe.SparseMoEConfig(router=router, experts=mhmoe.ExpertsConfig(dim=DIM, num_experts=4, expert_dim=64))
    biased = xmoe.replace(experts=xmoe.experts.replace(bias=True, inner_norm=True))
    variant = {"norm": "layer", "attention_bias": True, "tie_word_embeddings": False}
    kinds = {
        "dense": {},
        "X-MoE": {"moe": xmoe.to_dict()},
        "MH-MoE": {"moe": mhmoe.match("compute", xmoe, heads=4).to_dict()},
        "MH-MoE with biases": {"moe": mhmoe.match("parameters", biased, heads=2).to_dict(), **variant},
    }
    sizes = {"vocab_size": VOCABULARY, "hidden_size": DIM, "num_hidden_layers": 2, "num_attention_heads": 4}
    dense = {"kind": "feed_forward", "dim": DIM, "inner_dim": 64}
    for name, options in kinds.items():
        torch.manual_seed(0)
        config = mhmoe.MHMoEConfig(**sizes, feed_forward=dense, eos_token_id=None, **options)
        yield name, mhmoe.MHMoEForCausalLM(config)


def layer(**options: Any) -> mhmoe.MultiHeadMoE:
    torch.manual_seed(0)
    return mhmoe.MultiHeadMoE(dim=DIM, num_experts=4, moe_heads=4, expert_dim=64, **options)


def results(module: Any, x: Tensor) -> dict[str, Tensor]:
    """What the module gives for x, and every gradient of a number in which all of it takes part, by name."""
    module.zero_grad()
    output = module(x)
    main = output.logits if hasattr(output, "logits") else output.hidden
    (main.float().square().mean() + (0 if output.balance_loss is None else output.balance_loss)).backward()
    found = {name.removeprefix("_orig_mod."): p.grad.clone() for name, p in module.named_parameters()}
    found["output"] = main.detach()
    wrong = [name for name, tensor in found.items() if not torch.isfinite(tensor).all()]
    assert not wrong, f"not finite: {wrong}"
    return found


def distance(ours: dict[str, Tensor], reference: dict[str, Tensor]) -> str:
    """The largest, relative to each tensor's largest number; at most 1e-4."""
    assert ours.keys() == reference.keys()
    far = max(float((ours[n] - r).abs().max() / r.abs().max().clamp(min=1e-3)) for n, r in reference.items())
    assert far < 1e-4, f"outputs or gradients differ by {far:.1e}"
    return f"differs by {far:.0e}"


@check
def it_is_imported_from_the_wheel() -> str:
    assert Path(mhmoe.__file__).is_relative_to(sys.prefix), f"mhmoe is {mhmoe.__file__}, not the installed one"
    assert mhmoe.__version__ == metadata.version("mhmoe")
    assert not [name for name in mhmoe.__all__ if not hasattr(mhmoe, name)]
    names = ["torch", "transformers", "huggingface-hub", "numpy", "tokenizers", "safetensors"]
    python = ".".join(map(str, sys.version_info[:3]))
    return ", ".join([f"Python {python}", *(f"{name} {metadata.version(name)}" for name in names)])


@check
def the_layer_runs_forward_and_backward_with_every_router() -> str:
    kinds = [value for name, value in vars(mhmoe).items() if name.endswith("RouterConfig")]
    routers = [kind(dim=DIM // 4, num_experts=4) for kind in kinds if kind is not mhmoe.PerHeadRouterConfig]
    for router in (*routers, mhmoe.PerHeadRouterConfig.of(routers[0].replace(num_experts=1), heads=4)):
        results(layer(router=router), X)
    with torch.autocast("cpu", torch.bfloat16):
        results(layer(), X)
    return f"{len(kinds)} routers, and bfloat16"


@check
def every_model_runs_forward_and_backward() -> str:
    losses: list[str] = []
    for name, model in models():
        results(model, TOKENS)
        loss = model(TOKENS, labels=TOKENS).loss.item()
        assert 3 < loss < 8, f"{name}: the loss without training is {loss}"
        losses.append(f"{loss:.3f}")
    return f"losses {', '.join(losses)}"


@check
def every_model_learns_in_the_training_loop() -> str:
    packing = PackingConfig(vocab_size=VOCABULARY, max_train_tokens=20_000)
    text = pack(GeneratedCorpus(train_factor=2), packing, Path("packs"))
    config = TrainingConfig(
        steps=12, batch_sequences=8, length=32, learning_rate=0.01, evaluations=2, evaluation_windows=8
    )
    losses: list[str] = []
    for name, model in models():
        done = train(model, text, config, seed=0, checkpoint=Path(f"{name}.pt"))
        assert done is not None
        first, last = (done.curve[i]["valid_nll"] for i in (0, -1))
        assert last < first, f"{name}: the loss goes from {first} to {last}"
        losses.append(f"{last:.3f}")
    return f"losses {', '.join(losses)}"


@check_of_torch
def the_compiled_layer_is_the_eager_one() -> str:
    torch.compiler.reset()
    compiled = torch.compile(layer(top_k=2), backend=BACKEND)
    return f"{BACKEND}, {distance(results(compiled, X), results(layer(top_k=2), X))}"


@check
def the_compiled_model_is_the_eager_one() -> str:
    *_, (_, model) = models()
    torch.compiler.reset()
    return f"{BACKEND}, {distance(results(torch.compile(model, backend=BACKEND), TOKENS), results(model, TOKENS))}"


@check_of_torch
def the_exported_layer_takes_any_length() -> str:
    shapes = ({1: torch.export.Dim("length", min=2)},)
    exported = torch.export.export(layer(), (X[:, :4].contiguous(),), dynamic_shapes=shapes).module()
    torch.testing.assert_close(exported(X)[0], layer()(X).hidden)
    return f"exported at 4, run at {X.shape[1]}"


@check
def every_exported_model_takes_any_length() -> str:
    shapes = {"input_ids": {1: torch.export.Dim("length", min=2, max=64)}, "use_cache": None}
    for _, model in models():
        given = {"input_ids": TOKENS[:, :8].contiguous(), "use_cache": False}
        exported = torch.export.export(model, (), given, dynamic_shapes=shapes).module()
        logits = exported(input_ids=TOKENS, use_cache=False).logits
        torch.testing.assert_close(logits, model(TOKENS).logits, rtol=1e-4, atol=1e-5)
    return f"exported at 8, run at {TOKENS.shape[1]}"


@check
def generation_with_a_cache_is_generation_without() -> str:
    options = {"max_new_tokens": 12, "do_sample": False, "attention_mask": torch.ones_like(TOKENS)}
    for name, model in models():
        model.eval()
        cached, plain = (model.generate(TOKENS, use_cache=use, **options) for use in (True, False))
        assert cached.shape[1] == TOKENS.shape[1] + 12
        assert torch.equal(cached, plain), f"{name}: {cached.tolist()} with a cache, {plain.tolist()} without"
    return "12 tokens"


@check
def a_saved_model_loads_by_name() -> str:
    for name, model in models():
        folder = Path("saved", name)
        model.eval().save_pretrained(folder)
        logits = model(TOKENS).logits.detach()
        torch.save((TOKENS, logits), folder / "expected.pt")
        loaded = AutoModelForCausalLM.from_pretrained(folder)
        assert type(loaded) is type(model)
        assert torch.equal(loaded(TOKENS).logits, logits), f"{name}: other logits"
    return "equal logits"


@check
def a_saved_model_loads_where_nobody_imports_mhmoe() -> str:
    done = subprocess.run([sys.executable, "-I", "-c", LOAD], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return "equal logits"


@check
def a_text_file_becomes_a_model_by_one_command_and_is_scored_and_looked_into_by_two() -> str:
    documents = (document.text for document in GeneratedCorpus(train_factor=2).documents("train"))
    Path("my.txt").write_text("\n\n".join(documents), encoding="utf-8")
    os.environ["MHMOE_CACHE"] = "cache"
    small = ["--preset", "smoke", "--steps", "8", "--batch-sequences", "8", "--evaluations", "2"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert command_line(["train", "--data", "my.txt", *small]) == 0
        assert command_line(["eval", "my-mhmoe", "--data", "my.txt"]) == 0
        assert command_line(["inspect", "my-mhmoe", "--text", "one two"]) == 0
    AutoModelForCausalLM.from_pretrained("my-mhmoe")
    (score,) = (line for line in said.getvalue().splitlines() if line.startswith("my-mhmoe on my.txt"))
    return score.partition(": ")[2]


def main() -> int:
    warnings.filterwarnings("error", module="mhmoe")  # what a newer library will take away is a failure today
    failed = 0
    for function in CHECKS:
        claim, start, said = function.__name__.replace("_", " "), time.monotonic(), io.StringIO()
        try:
            with contextlib.redirect_stderr(said):  # progress bars
                seen = function()
            print(f"  ok      {claim}: {seen} ({time.monotonic() - start:.0f} s)", flush=True)
        except Exception:
            failed += 1
            print(f"  FAILED  {claim}\n{said.getvalue()}{traceback.format_exc()}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
