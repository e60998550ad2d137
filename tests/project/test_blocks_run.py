"""The commands of README.md, CONTRIBUTING.md and docs/ run, in their order, each page in a new folder.

bash runs them as they stand, in a copy of the code without results (tests/shell.py). What is different stands in the
tables below and nowhere else: how much smaller all is, what is replaced, what a page finds there, what is not run.
"""

import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from mhmoe.data.tokenizer import as_transformers, train_tokenizer
from tests.experiments.test_cli import write_corpus
from tests.hub import Splits, hub
from tests.project.test_readme import PAGES, name, read
from tests.questions import MADE, documents
from tests.shell import Ended, shell
from tests.small_scales import SMALL_SCALES
from tests.tiny import ROOT, ZipfText

# What is appended to files of the copied code.
SMALLER = {
    # The sizes smoke, laptop and gpu are one: two blocks as wide as smoke's, 300 symbols, 128 tokens.
    "mhmoe/commands/presets.py": """
import dataclasses as _d
_model = {"vocab_size": 300, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_model["max_position_embeddings"] = 128
_training = {"batch_sequences": 4, "length": 16, "learning_rate": 8e-3, "evaluations": 2, "evaluation_windows": 8}
for _name in ("smoke", "laptop", "gpu"):
    PRESETS[_name] = _d.replace(PRESETS[_name], model=_model, training=_training, max_tokens=128)
""",
    "experiments/scales.py": SMALL_SCALES,
    # Table 1 has three of its rows.
    "experiments/table1.py": """
import dataclasses as _d
_whole = table1
def table1(*arguments, **options):
    page, kept = _whole(*arguments, **options), {"dense", "xmoe_8", "mhmoe_8_compute"}
    rows = [row for row in page.rows if row.system.name in kept]
    return _d.replace(page, rows=rows, claims=[c for c in page.claims if {c.better, c.worse} <= kept])
""",
}
AS_LARGE_AS_EVER = ("docs/how/records.md",)

# What is replaced in commands, by regular expression.
REPLACED = {
    "^make check-gpu": f"env make -C {ROOT} check-gpu GPU_PYTHON={sys.executable}",
    r"^(\w+=\S+ )?make ": r"\1make JOBS=1 ",  # with two jobs a core would be waited for
    "/path/to/corpora": "$PWD/corpora",
    "--device cuda": "--device cpu",
    # By a process of its own, for which the hub is the one of tests/hub.py.
    "^python (.* --tasks )": rf"env $HUB HF_HOME=$PWD/hub {sys.executable} \1",
    # Else the records of the lines before are current, and nothing is run.
    "--shard$": "--shard --seeds 2",
    "(run table1 .*--data packed)": r"\1 --seeds 2",
}

# Commands that a page takes to have been given before, and an sbatch whose jobs do nothing. Files that a page takes to
# be there are in `things`.
RECORDS = ROOT / "results" / "runs" / "cpu"
COMMITTED = [f"mkdir -p results/runs/cpu && cp {RECORDS}/english-xmoe_8-*.json results/runs/cpu"]
BEFORE = {
    "CONTRIBUTING.md": [
        f"ln -s {Path(sys.executable).with_name('pre-commit')} .venv/bin",
        "git init -q && git -c user.name=x -c user.email=x commit -q --allow-empty -m x",
        "export MHMOE_DATA=$PWD/corpora",
    ],
    "docs/how/many_devices.md": [
        "python -m experiments pack packed --scale gpu --data corpora",
        r"printf '#!/bin/sh\necho Submitted batch job 1\n' | tee .venv/bin/sbatch > .venv/bin/srun",
        "chmod +x .venv/bin/sbatch .venv/bin/srun",
    ],
    "docs/how/records.md": COMMITTED,
    "docs/tutorials/own_text.md": COMMITTED,
    "docs/tutorials/inspect.md": [
        "make JOBS=1 reproduce-table1 SCALE=smoke",
        "export MHMOE_DATA=$PWD/corpora",
    ],
}

NOT_RUN = {
    "make setup": "CI begins with it; here it would find nothing to do",
    "make check": "is CI itself",
    "make test-all": "is these tests and the slow ones",
    "make docs": "is a part of `make check`",
    "make check-wheel": "takes 15 GB; CI's `make check` installs the wheel once, by the same program",
    r"make check-wheel VERSIONS=.*": "as above",
}

# The first pattern that is found in a command says what it shows: a text in what it prints, or a file that it leaves.
SHOWS: dict[str, str | Path] = {
    "^make$": "make setup",
    "--help$": "usage: python -m ",
    "--dry-run": "hours one after the other",
    "--launcher slurm": "submitted 32 jobs",
    "AGAIN=1": "3 of 3 runs are the same as their records",
    "--out records.tar": "new records and measurements",
    "torchrun .* table7": "smoke english-mhmoe_8_parameters_n0-seed1: perplexity",
    "--shard": "smoke english-mhmoe_8_compute-seed2: perplexity",
    "torchrun .* mhmoe": Path("my-texts-mhmoe/model.safetensors"),
    "torchrun .*--seeds 2": "smoke english-mhmoe_8_compute-seed2: perplexity",
    "torchrun": "smoke english-mhmoe_8_compute-seed1: perplexity",
    "TASK=multilingual": "Scale smoke; text: multilingual",
    "TASK=multimodal": "Scale smoke; text: multimodal (generated, shapes)",
    "reproduce-table1|render table1": "| MH-MoE, 8 experts, h = 4, equal FLOPs |",
    "run table1 .*--data packed": "cpu english-xmoe_8-seed2: perplexity",
    "run table1 .*--systems": "smoke english-xmoe_8-seed3: perplexity",
    "run table1": "cpu english-xmoe_8-seed1: perplexity",
    "ablate-heads": "| MH-MoE, 8 experts, h = 3, equal FLOPs",
    "figure7": "false cognates / true cognates",
    "figure4": "Figure 4 (English)",
    "run cosine.py": "smoke english-cosine_8-seed1: perplexity",
    "render cosine.py": "| Cosine router, 8 experts |",
    "make .*report": Path("results/report.html"),
    "render --check": "files are what the records give",
    "status": "table1_perplexity            0 done, 0 stale, 3 missing",
    "validate": "valid; cpu english-xmoe_8-seed1; current",
    "register": "registered; cpu english-xmoe_8-seed1",
    "experiments pack": "MiB for scale cpu",
    "mhmoe train .*--out wider": Path("wider/model.safetensors"),
    "mhmoe train .*my.jsonl": Path("my-xmoe/model.safetensors"),
    "mhmoe train": Path("my-model/model.safetensors"),
    "mhmoe eval .*--tasks": " ± ",
    "mhmoe eval": "bits per byte",
    "mhmoe inspect": "layer 1 (block 2)",
    "routing.inspect": "layer 1 (block 2)",
    "mhmoe match": "MH-MoE, equal FLOPs            41        2,304  37,459,089   4,723,857      9,467,008",
    "mhmoe upcycle": Path("my-mixture/model.safetensors"),
    "word_list": "| matched        |",
    "--write-tasks": "10 tasks",
    "zero_shot": "| openbookqa |",
    "lm_eval": "|openbookqa|",
    "check-gpu": "NOT CHECKED: no CUDA card",
    "pre-commit": Path(".git/hooks/pre-commit"),
    "tar xf": Path(".cache/sent/runs/cpu"),
    "^echo": Path(".cache/words.txt"),
    r"^(export )?\w+=\S+": "",
}


def commands(page: Path) -> list[str]:
    """The lines of a page's blocks of bash, and what follows `$` in those of a console, without comments."""
    found: list[str] = []
    for kind, block in re.findall(r"^```(bash|console)\n(.*?)^```", read(page), flags=re.MULTILINE | re.DOTALL):
        lines = re.sub(r"\\\n *", "", block).splitlines()
        lines = [line.removeprefix("$ ") for line in lines if kind == "bash" or line.startswith("$ ")]
        found += [bare for line in lines if (bare := re.sub(r"(^|\s+)#.*", "", line))]
    return found


def is_run(command: str) -> bool:
    return not any(re.fullmatch(pattern, command) for pattern in NOT_RUN)


def replaced(command: str) -> str:
    for pattern, other in REPLACED.items():
        command = re.sub(pattern, other, command)
    return command


COMMANDS = {name(page): [command for command in commands(page) if is_run(command)] for page in PAGES}


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts, corpora, a tokenizer, a dense model and a page's own file, which pages take to be there."""
    folder = tmp_path_factory.mktemp("things")
    texts = [document.text for document in ZipfText(15).documents("train")]
    (folder / "my-texts").mkdir()
    for text in ("my.txt", "another-book.txt", "my-texts/a.txt"):
        (folder / text).write_text("\n\n".join(texts))
    (folder / "my.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    tokenizer = as_transformers(train_tokenizer(texts, 300))
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=300, num_hidden_layers=2, **sizes)).save_pretrained(folder / "my-llama")
    for model in ("my-llama", "gpt2"):
        tokenizer.save_pretrained(folder / model)
    write_corpus(folder / "my-text")
    shutil.copytree(MADE.at(tmp_path_factory.mktemp("made")), folder / "corpora")
    manifest = folder / "corpora" / "manifest.json"
    generated = json.loads(manifest.read_text())["files"]
    write_corpus(folder / "corpora")
    manifest.write_text(json.dumps({"files": json.loads(manifest.read_text())["files"] + generated}))
    code = read(ROOT / "docs" / "tutorials" / "extend.md").partition("```bash\n")[0]
    (folder / "cosine.py").write_text("\n\n".join(re.findall(r"^```python\n(.*?)^```", code, re.MULTILINE | re.DOTALL)))
    return folder


def failures(ended: Sequence[Ended], folder: Path) -> list[str]:
    """What did not end well, or did not show what it should."""
    found: list[str] = []
    for each in ended:
        wanted = next((shown for pattern, shown in SHOWS.items() if re.search(pattern, each.command)), None)
        if each.code:
            found.append(f"{each.command}\nends with exit code {each.code}\n{each.out}\n{each.err}")
        elif wanted is None:
            found.append(f"{each.command}\nis not in SHOWS; say there what it shows")
        elif not ((folder / wanted).exists() if isinstance(wanted, Path) else wanted in each.out):
            found.append(f"{each.command}\ndoes not show {wanted}\n{each.out}\n{each.err}")
    return found


@pytest.fixture(scope="module")
def the_hub() -> Generator[None]:
    """A hub that has the data sets of the tasks that pages name; in commands, `$HUB` is how it is found."""
    words = sorted({word for document in ZipfText(15).documents("train") for word in document.text.split()})
    made = documents(np.random.RandomState(0), words)

    def splits(task: str) -> Splits:
        names: tuple[str, ...] = ("train", "validation", "test")
        return dict.fromkeys(names, made[task])

    data = {"allenai/ai2_arc": {"ARC-Easy": splits("arc_easy")}, "baber/piqa": {"default": splits("piqa")}}
    with pytest.MonkeyPatch.context() as patch, hub(data) as found:
        patch.setenv("HUB", " ".join(f"{name}={value}" for name, value in found.items()))
        yield


@pytest.mark.usefixtures("the_hub")
@pytest.mark.parametrize(("page", "found"), [pytest.param(p, found, id=p) for p, found in COMMANDS.items() if found])
def test_the_commands_of_a_page_run_in_their_order_and_show_what_they_should(
    page: str, found: list[str], things: Path, tmp_path: Path
):
    before, these = BEFORE.get(page, []), [replaced(command) for command in found]
    with shell(tmp_path, {} if page in AS_LARGE_AS_EVER else SMALLER) as here:
        shutil.copytree(things, tmp_path, dirs_exist_ok=True)
        ended = here.run([*before, *these])
    assert [each for each in ended[: len(before)] if each.code] == []
    wrong = failures(ended[len(before) :], tmp_path)
    assert not wrong, "\n\n".join(wrong)
    assert [each.command for each in ended] == [*before, *these]


def test_a_command_that_fails_ends_its_page_and_one_that_shows_another_is_found(tmp_path: Path):
    with shell(tmp_path, {}) as here:
        ended = here.run(["make", "python -m experiments status --no-such-option", "make"])
        (other,) = here.run(["true  # make docs"])
    assert [each.code for each in ended] == [0, 2]
    (wrong,) = failures(ended, tmp_path)
    assert "ends with exit code 2" in wrong and "no-such-option" in ended[1].err
    (wrong,) = failures([other], tmp_path)
    assert "is not in SHOWS" in wrong
    (wrong,) = failures([dataclasses.replace(ended[0], out="")], tmp_path)
    assert "does not show make setup" in wrong
    (wrong,) = failures([dataclasses.replace(ended[0], command="mhmoe upcycle")], tmp_path)
    assert "does not show my-mixture/model.safetensors" in wrong


def test_every_line_of_the_tables_is_of_a_command_that_stands_in_a_document():
    every = [command for page in PAGES for command in commands(page)]
    run = [replaced(command) for found in COMMANDS.values() for command in found]
    assert [pattern for pattern in NOT_RUN if not any(re.fullmatch(pattern, command) for command in every)] == []
    assert [pattern for pattern in REPLACED if not any(re.search(pattern, each) for each in every)] == []
    first = {next((pattern for pattern in SHOWS if re.search(pattern, command)), "") for command in run}
    assert [pattern for pattern in SHOWS if pattern not in first] == []
    assert {*BEFORE, *AS_LARGE_AS_EVER} <= COMMANDS.keys()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_block_that_names_its_language_is_of_one_that_is_run_and_begins_its_line(page: Path):
    fences = re.findall(r"^(.*)```(\w+)$", read(page), flags=re.MULTILINE)
    assert {*fences} <= {("", "python"), ("", "bash"), ("", "console")}
