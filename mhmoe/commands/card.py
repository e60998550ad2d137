"""What stands beside a trained model: a card that says what it is, with its curve as a figure where matplotlib is
installed, and `run.json`, all of it for programs."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mhmoe.io import write_atomically
from mhmoe.model.config import MHMoEConfig
from mhmoe.training.config import TrainingConfig
from mhmoe.training.record_checks import Point, Summary

FIGURE = "curve.png"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a card tells. scores: by split. data: the packed text's fingerprint. about: the command, commit, versions
    and machine. sample: of what the model writes."""

    name: str
    system: str
    model: MHMoEConfig
    training: TrainingConfig
    seed: int
    data: Mapping[str, Any]
    seconds: float
    curve: Sequence[Point]
    scores: Mapping[str, Summary]
    about: Mapping[str, Any]
    sample: str


def write_card(trained: Trained, folder: Path) -> None:
    """README.md and, if it can be drawn, the figure."""
    drawn = draw_curve(trained.curve, folder / FIGURE)
    write_atomically(folder / "README.md", card(trained, drawn))


def card(trained: Trained, drawn: bool) -> str:
    """The text of README.md, with the header that the Hugging Face hub reads."""
    model, training, splits = trained.model, trained.training, trained.data["splits"]
    versions = trained.about["versions"]
    counts = {
        "parameters": f"{model.parameters():,}",
        "of which a token uses": f"{model.active_parameters():,}",
        "FLOPs per token, forward": f"{model.flops_per_token(training.length):,}",
        "width, blocks, context": f"{model.hidden_size}, {model.num_hidden_layers}, {model.max_position_embeddings}",
        "symbols": f"{model.vocab_size:,}",
    }
    run = {
        "tokens": f"{training.steps * training.tokens_per_step:,} in {training.steps:,} steps",
        "text, in tokens": f"{splits['train']['tokens']:,} train, {splits['valid']['tokens']:,} valid, "
        f"{splits['test']['tokens']:,} test",
        "learning rate": f"{training.learning_rate:g}",
        "seed": str(trained.seed),
        "time": f"{trained.seconds:,.0f} s on {trained.about['device']}",
        "made by": ", ".join(f"{name} {versions[name]}" for name in ("mhmoe", "torch", "transformers")),
    }
    scores = [
        f"| {split} | {found['perplexity']:.2f} | {found['bits_per_byte']:.4f} | {found['tokens']:,} |"
        for split, found in trained.scores.items()
    ]
    sample = "\n".join(f"> {line}" for line in trained.sample.splitlines())
    files = trained.data["corpus"].get("files", {})
    parts = [
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [mixture-of-experts, mh-moe]\n---",
        f"# {trained.name}",
        f"A language model of the system `{trained.system}`, trained by `python -m mhmoe train`.",
        "## Use\n\n```python\nimport mhmoe  # pip install mhmoe\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{trained.name}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{trained.name}")\n'
        'prompt = tokenizer("Once upon a time", return_tensors="pt")\n'
        "print(tokenizer.decode(model.generate(**prompt, max_new_tokens=40)[0]))\n```\n\n"
        "Where nobody imports `mhmoe`, `trust_remote_code=True` finds it. It writes such as:\n\n" + sample,
        "## Scores\n\n| split | perplexity | bits per byte | tokens |\n|---|---:|---:|---:|\n" + "\n".join(scores),
        f"![Losses along training]({FIGURE})" if drawn else "",
        "## Size\n\n" + _table(counts),
        "## Training\n\n" + _table(run) + f"\n\n```\n{trained.about['command']}\n```",
        "## Text\n\n" + _table({name: f"sha256 `{digest}`" for name, digest in files.items()})
        if files
        else f"## Text\n\n```json\n{json.dumps(trained.data['corpus'], indent=1)}\n```",
        "`run.json` has the whole configuration and curve, `training.jsonl` the log.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(rows: Mapping[str, str]) -> str:
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def draw_curve(curve: Sequence[Point], path: Path) -> bool:
    """Loss of training and on valid against tokens; False, and no file, without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    tokens = [point["tokens"] for point in curve]
    axes.plot(tokens, [p["task_loss"] for p in curve], color="#56B4E9", marker="o", label="training, a step's batch")
    axes.plot(tokens, [p["valid_nll"] for p in curve], color="#000000", marker="s", linestyle="--", label="valid")
    axes.set_xlabel("training tokens")
    axes.set_ylabel("loss, nats per token")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.set_dpi(120)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    write_atomically(path, buffer.getvalue())
    return True
