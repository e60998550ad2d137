"""`python -m mhmoe`: from a text file to a model that is scored, looked into and loaded; a mistake is one line."""

import dataclasses
import errno
import gzip
import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from baselines.deepseekmoe import deepseekmoe
from baselines.mixtral import mixtral
from baselines.switch import switch
from baselines.xmoe import xmoe
from mhmoe.__main__ import main
from mhmoe.commands.options import ModelOptions, Train, TrainingOptions
from mhmoe.commands.plan import settings_of, tokens_read, training_of
from mhmoe.commands.presets import PRESETS
from mhmoe.commands.score import Evaluate, _documents, evaluate, harness_lines
from mhmoe.commands.systems import SYSTEMS, Sizes, layer_of
from mhmoe.data.own_text import OwnText
from mhmoe.data.packing import PackingConfig, pack
from mhmoe.data.tokenizer import as_transformers, train_tokenizer
from mhmoe.io import UserError, sha256_of
from mhmoe.layers.matching import match
from mhmoe.model.config import MHMoEConfig
from mhmoe.model.integrate import load_integrated
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.config import TrainingConfig
from mhmoe.training.watchers import read_log
from tests import tiny
from tests.processes import together

FAST = ["--preset", "smoke", "--steps", "4", "--batch-sequences", "8", "--evaluations", "2", "--log-every", "2"]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MHMOE_CACHE", str(tmp_path_factory.getbasetemp() / "mhmoe-cache"))


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text("\n\n".join(document.text for document in tiny.ZipfText().documents("train")))
    return path


@pytest.fixture(scope="module")
def folder(book: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MHMOE_CACHE", str(tmp_path_factory.getbasetemp() / "mhmoe-cache"))
        assert main(["train", "--data", str(book), "--out", str(out), *FAST]) == 0
    return out


def told(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


# ---- from a text to a model -------------------------------------------------------------------


def test_what_train_writes_loads_by_name_and_generates(folder: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("ba moli", return_tensors="pt")
    written = model.generate(**prompt, max_new_tokens=5, do_sample=False)
    assert tokenizer.decode(written[0]).startswith("ba moli") and written.shape[1] > prompt.input_ids.shape[1]
    cut = tokenizer("ba moli " * 999, truncation=True, return_tensors="pt")
    assert cut.input_ids.shape[1] == model.config.max_position_embeddings == tokenizer.model_max_length


def test_eval_gives_the_scores_that_train_wrote(folder: Path, book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = told(folder)["scores"]["test"]
    assert main(["eval", str(folder), "--data", str(book), "--length", "64"]) == 0
    said = capsys.readouterr().out
    assert f"perplexity {scores['perplexity']:.2f}, {scores['bits_per_byte']:.4f} bits per byte" in said
    assert f"{scores['tokens']:,} tokens" in said


def test_eval_and_train_score_as_many_tokens_and_the_same_of_them(folder: Path, book: Path, tmp_path: Path) -> None:
    packed, command = told(folder)["data"], Evaluate(model=str(folder), data=str(book))
    assert packed["packing"]["max_test_tokens"] == packed["packing"]["max_valid_tokens"] == command.max_tokens
    corpus, packing = OwnText.of(book), PackingConfig(vocab_size=300, max_train_tokens=999, max_test_tokens=50)
    ours = pack(corpus, packing, tmp_path)
    cut = dataclasses.replace(command, max_tokens=50)
    theirs, _ = _documents(cut, corpus, as_transformers(ours.tokenizer), 300)
    assert theirs.ids == ours.test.ids and theirs.tokens.tolist() == ours.test.tokens.tolist()


def test_eval_tells_that_the_model_was_trained_on_another_version_of_the_text(
    folder: Path, book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: dict[str, str] = {}
    shutil.copy(book, tmp_path / "renamed.txt")
    (tmp_path / "edited.txt").write_text(book.read_text().partition(" ")[2])
    for name in ("renamed", "edited"):
        for split in ("test", "valid", "train", "all"):
            command = ["eval", str(folder), "--data", f"{name}.txt", "--split", split, "--max-tokens", "99"]
            assert main(command) == 0
            said[f"{name} {split}"] = capsys.readouterr().out.partition("\n")[2]
    told_of = {name: line for name, line in said.items() if line}
    line = f"{folder} was trained on another version of edited.txt, or on another text: what is test here may have been"
    assert told_of.keys() == {"edited test", "edited valid"} and told_of["edited test"] == f"{line} read by it\n"


def test_a_tokenizer_that_was_saved_to_cut_and_pad_does_neither_in_eval_and_inspect(
    folder: Path, book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, tmp_path / "cut")
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "cut")
    tokenizer("a text", truncation=True, max_length=8, padding="max_length")
    tokenizer.save_pretrained(tmp_path / "cut")
    assert json.loads((tmp_path / "cut" / "tokenizer.json").read_text())["truncation"]["max_length"] == 8
    for command in (["eval", "MODEL", "--data", str(book)], ["inspect", "MODEL", "--text", "one two three"]):
        said: list[str] = []
        for model in (folder, tmp_path / "cut"):
            assert main([str(model) if word == "MODEL" else word for word in command]) == 0
            said.append(capsys.readouterr().out.replace(str(model), "MODEL"))
        assert said[0] == said[1]


def test_the_card_has_the_counts_the_scores_and_the_hash_of_the_text(folder: Path, book: Path) -> None:
    card = (folder / "README.md").read_text()
    weights = load_file(folder / "model.safetensors")
    assert f"| parameters | {sum(tensor.numel() for tensor in weights.values()):,} |" in card
    assert f"| book.txt | sha256 `{sha256_of(book)}` |" in card
    assert f"| test | {told(folder)['scores']['test']['perplexity']:.2f} |" in card
    assert card.startswith("---\nlibrary_name: transformers\n") and "![Losses along training](curve.png)" in card
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_card_has_the_command_that_was_given_whoever_gave_it(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, given in {"own": ["my.py", "--big"], "ours": ["-m", "mhmoe", "train", f"--data={book}"]}.items():
        monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python3.11", *given])
        assert main(["train", "--data", str(book), "--out", name, *FAST]) == 0
        command = " ".join(["python", *given]).replace(str(book), book.name)
        assert told(Path(name))["about"]["command"] == command
        assert f"```\n{command}\n```" in Path(name, "README.md").read_text()


def test_the_log_has_every_step_that_was_asked_for(folder: Path) -> None:
    lines = read_log(folder / "training.jsonl")
    assert [line["step"] for line in lines if "evaluation" not in line] == [2, 4]
    assert [line["evaluation"] for line in lines if "evaluation" in line] == told(folder)["curve"]


def test_the_same_command_again_does_nothing_and_another_one_is_refused(
    folder: Path, book: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert main(["train", "--data", str(book), "--out", str(folder), *FAST]) == 0
    assert "is finished already" in capsys.readouterr().out
    assert main(["train", "--data", str(book), "--out", str(folder), *FAST, "--seed", "2"]) == 2
    assert "holds another run (its options or its text differ)" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_an_interrupted_run_goes_on_to_the_same_weights(folder: Path, book: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    command = ["train", "--data", str(book), "--out", str(out), *FAST]
    assert main([*command, "--time-budget", "0"]) == 0
    assert (out / "checkpoint.pt").is_file() and not (out / "model.safetensors").exists()
    assert main(command) == 0 and not (out / "checkpoint.pt").exists()
    ours, theirs = load_file(out / "model.safetensors"), load_file(folder / "model.safetensors")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_tilde_is_the_home_folder_where_no_shell_says_so(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(book, tmp_path)
    assert main(["train", "--data=~/book.txt", "--out=~/model", *FAST, "--time-budget", "0"]) == 0
    assert (tmp_path / "model" / "run.json").is_file() and not Path("~").exists()


def test_a_given_tokenizer_and_another_system_make_a_model_that_eval_takes(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learned = train_tokenizer([book.read_text()], 300)
    learned.add_special_tokens(["<end>"])
    PreTrainedTokenizerFast(tokenizer_object=learned, eos_token="<end>").save_pretrained(tmp_path / "tokenizer")
    given = ["--tokenizer", str(tmp_path / "tokenizer"), "--system", "deepseekmoe"]
    assert main(["train", "--data", str(book), *given, *FAST]) == 0
    out = tmp_path / "book-deepseekmoe"
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.config.vocab_size == 301 and model.config.eos_token_id == 300
    capsys.readouterr()
    assert main(["eval", str(out), "--data", str(book), "--length", "64"]) == 0
    assert f"perplexity {told(out)['scores']['test']['perplexity']:.2f}" in capsys.readouterr().out


def test_inspect_shows_every_token_with_as_many_experts_as_sub_tokens(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(folder), "--text", "ba moli"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    tokens = AutoTokenizer.from_pretrained(folder).tokenize("ba moli")
    assert "layer 1 (block 2)" in head and len(lines) == len(tokens)
    assert all(len(line.split()) == 1 + 4 for line in lines)


def test_inspect_names_the_blocks_that_route_whichever_layer_does(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer, layer = AutoTokenizer.from_pretrained(folder), xmoe(16, 4).to_dict()
    config = MHMoEConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        moe=layer,
        feed_forward=layer,
    )
    for saved in (MHMoEForCausalLM(config), tokenizer):
        saved.save_pretrained(tmp_path / "both")
    assert main(["inspect", str(tmp_path / "both"), "--text", "ba moli"]) == 0
    out = capsys.readouterr().out
    assert "layer 1 (block 1)" in out and "layer 2 (block 2)" in out


def test_match_prints_the_sizes_that_match_solves(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["match", "--dim", "96", "--heads", "2", "--experts", "4", "--expert-dim", "200"]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    reference = xmoe(96, 4)
    reference = reference.replace(experts=reference.experts.replace(expert_dim=200))
    layers: list[Any] = [reference, *(match(m, reference, heads=2) for m in ("equation", "parameters", "compute"))]
    for line, layer in zip(lines, layers, strict=True):
        mixture = getattr(layer, "inner", layer)
        counts = (layer.parameters(), layer.active_parameters(), layer.flops_per_token())
        expected = [mixture.experts.num_experts, mixture.experts.expert_dim, *counts]
        assert [int(cell.replace(",", "")) for cell in line.split()[-5:]] == expected


# ---- options ----------------------------------------------------------------------------------


def names(cls: type) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}


def test_every_field_of_the_configs_is_an_option() -> None:
    """But for those of models of masked tokens, which `train` does not make."""
    elsewhere = {"feed_forward", "moe", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id", "is_causal"}
    assert names(ModelOptions) == MHMoEConfig.__annotations__.keys() - elsewhere
    assert names(TrainingOptions) == names(TrainingConfig) - {"masked"}


def test_options_replace_the_presets_and_steps_follow_from_the_text() -> None:
    command = Train(
        data="",
        model=ModelOptions(hidden_size=64, attention_bias=True),
        training=TrainingOptions(learning_rate=0.5, lr_multipliers=(("head", 2.0),)),
        epochs=3.0,
    )
    settings, training = settings_of(command, 700, 5), training_of(command, CPU, available=100_000)
    assert (settings.hidden_size, settings.vocab_size, settings.eos_token_id) == (64, 700, 5)
    assert settings.attention_bias and settings.num_hidden_layers == PRESETS["laptop"].model["num_hidden_layers"]
    assert training.learning_rate == 0.5 and training.lr_multipliers == (("head", 2.0),)
    assert training.steps == 300_000 // (16 * 128)
    assert training_of(command, CPU, available=10**9).steps == PRESETS["laptop"].max_tokens // (16 * 128)
    fixed = dataclasses.replace(command, training=TrainingOptions(steps=7))
    assert training_of(fixed, CPU, available=10**9).steps == 7


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_has_a_model_at_every_preset(system: str, preset: str) -> None:
    command = Train(data="", system=system, preset=preset)
    settings = settings_of(command, PRESETS[preset].model["vocab_size"], 0)
    assert (settings.moe is None) == (system == "dense")
    assert training_of(command, CPU).length <= settings.max_position_embeddings


def test_systems_are_the_published_ones_of_the_baselines() -> None:
    sizes = Sizes(dim=48, experts=4)
    assert layer_of("xmoe", sizes) == xmoe(48, 4)
    assert layer_of("switch", sizes) == switch(48, 4)
    assert layer_of("mixtral", sizes) == mixtral(48, 4, expert_dim=192)
    assert layer_of("deepseekmoe", sizes) == deepseekmoe(48, 15, 3, 1, expert_dim=48)
    assert layer_of("mhmoe", sizes) == match("compute", xmoe(48, 4), heads=4)
    as_given: Any = layer_of("mhmoe", dataclasses.replace(sizes, matching="none"))
    assert (as_given.inner.experts.num_experts, as_given.inner.experts.expert_dim) == (4, 192)


def test_a_layer_of_ones_own_is_read_from_a_file(tmp_path: Path) -> None:
    layer = mixtral(96, 3)
    (tmp_path / "layer.json").write_text(json.dumps(layer.to_dict()))
    assert settings_of(Train(data="", layer=tmp_path / "layer.json"), 512, 0).moe == layer.to_dict()


def test_less_than_an_epoch_is_of_the_whole_text() -> None:
    command = Train(data="", epochs=0.5, max_tokens=100_000)
    longest = training_of(command, CPU)
    read = tokens_read(command, longest)
    assert read == 2 * longest.steps * longest.tokens_per_step
    assert training_of(command, CPU, read).steps == longest.steps  # of a text as long or longer, which is cut there
    more = dataclasses.replace(command, epochs=3.0)
    assert tokens_read(more, training_of(more, CPU)) == longest.steps * longest.tokens_per_step


# ---- mistakes ---------------------------------------------------------------------------------


def without_end(place: Path) -> str:
    PreTrainedTokenizerFast(tokenizer_object=train_tokenizer(["a b"], 260)).save_pretrained(place / "no-end")
    return str(place / "no-end")


def larger_tokenizer(place: Path, folder: Path) -> str:
    (place / "larger").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder / name, place / "larger")
    learned = train_tokenizer(["a b"], 260)
    learned.add_tokens([f"word{n}" for n in range(400)])
    as_transformers(learned).save_pretrained(place / "larger")
    return str(place / "larger")


def dense_model(place: Path) -> str:
    tiny.model("dense").save_pretrained(place / "dense")
    as_transformers(train_tokenizer(["a b"], 260)).save_pretrained(place / "dense")
    return str(place / "dense")


def written(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


Case = tuple[Callable[[Path, Path, Path], list[str]], str]
MISTAKES: dict[str, Case] = {
    "a missing text": (
        lambda p, b, f: ["train", "--data", "gone.txt"],
        "gone.txt is not there; name a file",
    ),
    "a home that is nobody's": (lambda p, b, f: ["eval", str(f), "--data", "~nobody-here/a.txt"], "a.txt is not there"),
    "an empty text": (lambda p, b, f: ["train", "--data", written(p / "e.txt", b" \n")], "e.txt is empty"),
    "a binary": (
        lambda p, b, f: ["train", "--data", written(p / "b.txt", b"ab\xff\x00")],
        "byte 3 is 0xff; save it",
    ),
    "a binary of ASCII": (
        lambda p, b, f: ["train", "--data", written(p / "b.txt", b"ab\x00c")],
        "character 3 is a",
    ),
    "no gzip": (lambda p, b, f: ["train", "--data", written(p / "b.txt.gz", b"ab")], "it is not packed by gzip"),
    "half a gzip": (
        lambda p, b, f: ["train", "--data", written(p / "b.txt.gz", gzip.compress(b.read_bytes())[:-9])],
        "it is not packed by gzip",
    ),
    "a line that is no JSON": (
        lambda p, b, f: ["train", "--data", written(p / "l.jsonl", b'{"text": "a"}\n{"txt": 1}\n')],
        "l.jsonl, line 2, is not a JSON object with a text (it has no field text, but",
    ),
    "a line whose text is null": (
        lambda p, b, f: ["train", "--data", written(p / "n.jsonl", b'{"text": "a"}\n{"text": null}\n')],
        "n.jsonl, line 2, is not a JSON object with a text (its field text is null)",
    ),
    "a file of JSON": (
        lambda p, b, f: ["train", "--data", written(p / "rows.json", b'[{"text": "a"}, {"text": "b"}]')],
        "rows.json is JSON, of which names and brackets would be read as text; name it .jsonl, a document a line",
    ),
    "sequences longer than the context": (
        lambda p, b, f: ["train", "--data", str(b), "--preset", "smoke", "--length", "128"],
        "length=128 exceeds the model's max_position_embeddings=64; train on shorter sequences",
    ),
    "a folder without text": (
        lambda p, b, f: ["train", "--data", str(Path(written(p / "d" / "x.png", b"x")).parent)],
        "/d has no text; put files into it whose names end in .txt,",
    ),
    "an output among the text": (
        lambda p, b, f: [
            "train",
            "--data",
            str(Path(written(p / "t" / "a.txt", b"a")).parent),
            "--out",
            str(p / "t/m"),
        ],
        "/t, and would be read as text; give another --out",
    ),
    "fewer tokens than a batch": (
        lambda p, b, f: ["train", "--data", str(b), "--preset", "smoke", "--batch-sequences", "4096"],
        "batch_sequences=4096 of length=64 need 262145 tokens, the train split has",
    ),
    "an unknown system": (lambda p, b, f: ["train", "--data", str(b), "--system", "moe"], "system='moe' is not known;"),
    "an unknown preset": (lambda p, b, f: ["train", "--data", str(b), "--preset", "big"], "preset='big' is not known;"),
    "an unknown matching": (
        lambda p, b, f: ["train", "--data", str(b), "--matching", "x"],
        "matching='x' is not known",
    ),
    "an unknown device": (lambda p, b, f: ["train", "--data", str(b), "--device", "tpu"], "device='tpu' is not known;"),
    "heads that do not divide": (
        lambda p, b, f: ["train", "--data", str(b), "--heads", "5"],
        "moe_heads=5 does not divide dim=96; choose one of 1, 2, 3, 4, 6,",
    ),
    "experts that the processes do not divide": (
        lambda p, b, f: ["train", "--data", str(b), "--preset", "gpu", "--expert-parallel", "2"],
        "expert_parallel=2 does not divide num_experts=41; choose one that does",
    ),
    "no experts that the processes could share out": (
        lambda p, b, f: ["train", "--data", str(b), "--system", "dense", "--expert-parallel", "2"],
        "expert_parallel=2 has no sparse experts to share out; leave it at 1",
    ),
    "a batch that the processes do not divide": (
        lambda p, b, f: ["train", "--data", str(b), "--batch-sequences", "7"],
        "2 processes cannot share out batch_sequences=7; choose numbers that divide",
    ),
    "shards for one alone": (
        lambda p, b, f: ["train", "--data", str(b), "--shard"],
        "are for several processes; start them by torchrun --standalone --nproc-per-node N -m mhmoe",
    ),
    "no steps": (lambda p, b, f: ["train", "--data", str(b), "--steps", "0"], "steps=0 is not allowed"),
    "heads of a system without": (
        lambda p, b, f: ["train", "--data", str(b), "--system", "switch", "--heads", "2"],
        "heads=2 changes nothing in system switch; leave it out",
    ),
    "experts of one network": (
        lambda p, b, f: ["train", "--data", str(b), "--system", "dense", "--experts", "4"],
        "experts=4 changes nothing in system dense; leave it out",
    ),
    "a mixture's weight where there is none": (
        lambda p, b, f: ["train", "--data", str(b), "--system", "dense", "--balance-weight", "0.1"],
        "balance_weight=0.1 changes nothing in system dense; leave it out",
    ),
    "places of no mixture": (
        lambda p, b, f: ["train", "--data", str(b), "--system", "dense", "--moe-every", "1"],
        "moe_every=1 changes nothing in system dense; leave it out",
    ),
    "a part of no text": (
        lambda p, b, f: ["eval", str(f), "--data", str(b), "--split", "most"],
        "split='most' is not known; choose one of train, valid, test, all",
    ),
    "a limit of no tasks": (
        lambda p, b, f: ["eval", str(f), "--data", str(b), "--limit", "3"],
        "limit=3 changes nothing without --tasks; leave it out",
    ),
    "a length of no text": (
        lambda p, b, f: ["eval", str(f), "--tasks", "piqa", "--length", "8"],
        "length=8 changes nothing without --data; leave it out",
    ),
    "sizes beside a layer": (
        lambda p, b, f: ["train", "--data", str(b), "--layer", str(b), "--top-k", "4"],
        "top_k=4 changes nothing in a layer of your own; leave it out",
    ),
    "epochs beside steps": (
        lambda p, b, f: ["train", "--data", str(b), "--steps", "9", "--epochs", "2"],
        "epochs=2.0 changes nothing beside steps=9; leave one of them out",
    ),
    "tokens beside steps": (
        lambda p, b, f: ["train", "--data", str(b), "--steps", "9", "--max-tokens", "600"],
        "max_tokens=600 changes nothing beside steps=9; leave one of them out",
    ),
    "fewer tokens than a step": (
        lambda p, b, f: ["train", "--data", str(b), "--preset", "smoke", "--max-tokens", "600"],
        "max_tokens=600 is less than one step reads: 32 sequences of 64, 2048 tokens; give at least as many",
    ),
    "the rate of a part that is not there": (
        lambda p, b, f: ["train", "--data", str(b), "--system", "xmoe", "--lr-multipliers", "head", "0.1"],
        "lr_multipliers=head changes nothing: the model has no part of that name; leave it out",
    ),
    "a run.json that is a list": (
        lambda p, b, f: ["train", "--data", str(b), "--out", str(Path(written(p / "r/s/run.json", b"[1]")).parent)],
        "r/s/run.json is no JSON object; remove the folder to train anew",
    ),
    "no time": (
        lambda p, b, f: ["train", "--data", str(b), "--out", str(p / "m"), "--time-budget", "nan"],
        "time_budget=nan is not allowed",
    ),
    "no seed": (lambda p, b, f: ["train", "--data", str(b), "--out", str(p / "m"), "--seed", "-1"], "seed=-1 is not"),
    "no lines of the log": (
        lambda p, b, f: ["train", "--data", str(b), "--out", str(p / "m"), "--log-every", "0"],
        "log_every=0 is not allowed; it must be at least 1",
    ),
    "no epochs": (lambda p, b, f: ["train", "--data", str(b), "--epochs", "0"], "epochs=0.0 is not allowed"),
    "a place that cannot be written": (
        lambda p, b, f: ["train", "--data", str(b), "--out", str(b / "out")],
        "cannot write in",
    ),
    "a folder of something else": (
        lambda p, b, f: ["train", "--data", str(b), "--out", str(b.parent)],
        "holds files that are no run's; name another --out",
    ),
    "a tokenizer without end of text": (
        lambda p, b, f: ["train", "--data", str(b), "--tokenizer", without_end(p)],
        "has no end of text; set its eos_token",
    ),
    "a missing tokenizer": (
        lambda p, b, f: ["train", "--data", str(b), "--tokenizer", str(p / "gone")],
        "gone cannot be loaded",
    ),
    "a tokenizer of another size": (
        lambda p, b, f: ["train", "--data", str(b), "--tokenizer", str(f), "--vocab-size", "99"],
        "vocab_size=99 is not the tokenizer's, which has 512 symbols; leave it out",
    ),
    "a part of a layer": (
        lambda p, b, f: [
            *("train", "--data", str(b)),
            *("--layer", written(p / "r.json", json.dumps(xmoe(96, 2).router.to_dict()).encode())),
        ],
        "has xmoe_router, which is a part of a layer; give a whole one",
    ),
    "a model with another's tokenizer": (
        lambda p, b, f: ["eval", larger_tokenizer(p, f), "--data", str(b)],
        "symbols, and a model of 512; give its own",
    ),
    "nothing to score": (lambda p, b, f: ["eval", str(f)], "there is nothing to score; name a text by --data"),
    "windows longer than the context": (
        lambda p, b, f: ["eval", str(f), "--data", str(b), "--length", "9999"],
        "length=9999 is more than",
    ),
    "an unknown split": (lambda p, b, f: ["eval", str(f), "--data", str(b), "--split", "x"], "split='x' is not known"),
    "a missing model": (lambda p, b, f: ["eval", str(p), "--data", str(b)], "has no config.json"),
    "a layer that is not there": (
        lambda p, b, f: ["inspect", str(f), "--text", "a", "--layer", "2"],
        "--layer 2 does not exist; the model has MoE layers 1 to 1",
    ),
    "a layer of a dense model": (
        lambda p, b, f: ["inspect", dense_model(p), "--text", "a", "--layer", "1"],
        "the checkpoint is a dense model: it has no experts to show",
    ),
    "an empty text to look into": (lambda p, b, f: ["inspect", str(f), "--text", ""], "the text is empty"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2_before_any_work(
    case: str,
    tmp_path: Path,
    book: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "processes" in case:
        monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun tells
    make, line = MISTAKES[case]
    arguments = make(tmp_path, book, folder)
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1
    assert line in said.err
    assert not [path for path in tmp_path.glob("*/*") if path.name in ("run.json", "checkpoint.pt", "training.jsonl")]


@pytest.mark.parametrize("given", [["eval", "m", "--nope"], ["eval", "m", "--limit", "x"], ["evil"]])
def test_what_the_parser_does_not_take_is_in_a_box_with_the_same_exit_code(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(given)
    said = capsys.readouterr().err.strip()
    assert ended.value.code == 2 and said.count("\n") > 1 and "--help" in said


@pytest.mark.parametrize(
    ("command", "part", "said"),
    [("match", "xmoe", "nothing was written"), ("train", "text_named", "the same command goes on from the last")],
)
def test_only_what_goes_on_says_so_when_it_is_interrupted(
    command: str, part: str, said: str, book: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"mhmoe.commands.{command}.{part}", interrupt)
    assert main([command, *(["--data", str(book)] if command == "train" else [])]) == 130
    assert said in capsys.readouterr().err


def test_a_text_of_fewer_symbols_than_are_asked_for_is_told(book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for size in ("9000", "300"):
        assert main(["train", "--data", str(book), "--out", size, "--vocab-size", size, *FAST]) == 0
        said.append(capsys.readouterr().out)
    symbols = len(AutoTokenizer.from_pretrained("9000", trust_remote_code=True))
    assert f"the text gives {symbols:,} symbols of vocab_size=9,000; the others are never read" in said[0]
    assert symbols < 9000 and "never read" not in said[1]


# ---- several processes ----------------------------------------------------------------------


PLACED = {"copies": (), "shards and experts": ("--expert-parallel", "2")}
SMALL = (*FAST, "--precision", "float32", "--matching", "equal-parameters")


def trained_together(folder: Path, book: str) -> None:
    for name, options in PLACED.items():
        assert main(["train", "--data", book, "--out", str(folder / name), *SMALL, *options]) == 0


def test_a_file_that_another_process_is_just_writing_does_not_make_the_folder_anothers(book: Path) -> None:
    Path("model").mkdir()
    Path("model/.run.json.writing-abc").write_text("")
    assert main(["train", "--data", str(book), "--out", "model", *SMALL]) == 0


def test_two_processes_write_the_folder_that_one_writes(book: Path, tmp_path: Path) -> None:
    together(trained_together, tmp_path / "two", 2, book)
    assert main(["train", "--data", str(book), "--out", "one", *SMALL]) == 0
    expected = load_file("one/model.safetensors")
    for name in PLACED:
        ours = tmp_path / "two" / name
        assert {path.name for path in ours.iterdir()} == {path.name for path in Path("one").iterdir()}
        assert tiny.difference(load_file(ours / "model.safetensors"), expected) < 1e-4
        assert told(ours)["scores"]["test"]["nll_per_token"] == pytest.approx(
            told(Path("one"))["scores"]["test"]["nll_per_token"], rel=1e-5
        )
        assert told(ours)["run"] == told(Path("one"))["run"]


# ---- upcycle --------------------------------------------------------------------------------


def test_a_model_of_text_and_pictures_is_scored_as_one_of_text(book: Path, tmp_path: Path, capsys) -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    text: dict[str, Any] = {**sizes, "num_hidden_layers": 1, "num_key_value_heads": 1, "head_dim": 8}
    text |= {"vocab_size": 320, "max_position_embeddings": 64}
    vision = {**sizes, "num_hidden_layers": 1, "image_size": 8, "patch_size": 4}
    whole = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=319)
    Gemma3ForConditionalGeneration(whole).save_pretrained("both")
    as_transformers(tiny.text(tmp_path / "packed").tokenizer).save_pretrained("both")
    capsys.readouterr()
    assert main(["eval", "both", "--data", str(book)]) == 0
    assert "perplexity" in capsys.readouterr().out
    assert main(["eval", "both", "--data", str(book), "--length", "65"]) == 2
    assert "reads at once; give at most 64" in capsys.readouterr().err


def test_a_model_that_reads_few_tokens_is_upcycled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ends = dict.fromkeys(("bos_token_id", "eos_token_id"), 0)
    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=320, n_embd=16, n_layer=1, n_head=2, n_positions=32, **ends))
    gpt.save_pretrained("gpt")
    as_transformers(tiny.text(tmp_path / "packed").tokenizer).save_pretrained("gpt")
    capsys.readouterr()
    assert main(["upcycle", "gpt", "--out", "mixture", "--experts", "4"]) == 0
    assert float(capsys.readouterr().out.rsplit(maxsplit=1)[-1]) < 1e-5


def test_nothing_half_written_stays_of_a_mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.model("dense").save_pretrained("dense")
    as_transformers(tiny.text(tmp_path / "packed").tokenizer).save_pretrained("dense")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", full)
    assert main(["upcycle", "dense", "--out", "mixture", "--experts", "4"]) == 2
    assert not [path for path in Path().iterdir() if "mixture" in path.name]


def test_upcycle_writes_the_mixture_of_a_dense_model_which_is_scored(book: Path, tmp_path: Path, capsys) -> None:
    text = tiny.text(tmp_path / "packed")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 320, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    llama = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, max_position_embeddings=64))
    llama.save_pretrained("dense")
    as_transformers(text.tokenizer).save_pretrained("dense")
    capsys.readouterr()
    assert main(["upcycle", "dense", "--out", "mixture", "--experts", "4", "--every", "2"]) == 0
    said = capsys.readouterr().out
    assert float(said.rsplit(maxsplit=1)[-1]) < 1e-5 and "logits differ by at most" in said
    mixture = load_integrated("mixture")
    assert type(mixture).__name__ == "MHMoELlamaForCausalLM"
    scores = {}
    for name in ("dense", "mixture"):
        assert main(["eval", name, "--data", str(book)]) == 0
        scores[name] = capsys.readouterr().out.partition("\n")[2]
    assert scores["dense"] == scores["mixture"]
    assert main(["upcycle", "dense", "--out", "mixture"]) == 2
    assert "mixture exists already; remove it or name another --out" in capsys.readouterr().err
    assert main(["upcycle", "mixture", "--out", "again"]) == 2
    assert "the model has layers of ours already; give a dense one" in capsys.readouterr().err


def test_a_model_that_gives_no_numbers_has_no_scores(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"filtered_resps": [(-1.5, False), (math.nan, False)]}
    found = {"results": {"piqa": {"acc,none": 0.5}}, "samples": {"piqa": [answers]}}
    monkeypatch.setattr("lm_eval.evaluator.simple_evaluate", lambda **_: found)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", lambda **_: None)
    with pytest.raises(UserError, match=r"model gives no numbers for likelihoods \(nan\)"):
        evaluate(Evaluate(model=str(folder), tasks=("piqa",)))
    answers["filtered_resps"].pop()
    assert "piqa: acc 0.5000" in evaluate(Evaluate(model=str(folder), tasks=("piqa",)))


def test_numbers_of_the_harness_have_the_standard_errors_of_their_filter() -> None:
    strict, free = {"exact_match,strict": 0.5, "exact_match_stderr,strict": 0.1}, {"exact_match,flexible": 0.75}
    found = harness_lines({"boolq": {"sample_len": 8, "acc,none": 0.25, "acc_stderr,none": 0.2, **strict, **free}})
    assert found == [
        "boolq: acc 0.2500 ± 0.2000, 8 items",
        "boolq: exact_match,strict 0.5000 ± 0.1000, 8 items",
        "boolq: exact_match,flexible 0.7500, 8 items",
    ]
