"""Our scores are lm-eval's, computed faster, with chance and finer measures beside them."""

import dataclasses
import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.evaluator import simple_evaluate
from lm_eval.models import huggingface
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.utils import apply_template, env
from transformers import LlamaConfig, LlamaForCausalLM

from analysis.zero_shot import length_batched
from analysis.zero_shot.answers import unpack
from analysis.zero_shot.harness import scored_bytes, templates_compiled_once
from analysis.zero_shot.length_batched import LengthBatchedLM
from analysis.zero_shot.results import ZeroShotScores
from analysis.zero_shot.scoring import evaluate, main
from analysis.zero_shot.tasks import ENGLISH, TASKS, XNLI, find, stock_file, write_tasks
from mhmoe.data.tokenizer import as_transformers, train_tokenizer
from mhmoe.from_json import from_json
from mhmoe.io import UserError, sha256_of
from mhmoe.model.checkpoints import load
from tests import tiny
from tests.questions import ITEMS, KINDS, sentence, words, write_manifest, write_questions

HFLM: Any = huggingface.HFLM
CONTEXT = 48  # tokens: less than many of the questions, more than any answer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "of [1] kind"  # no pattern of names
    folder.mkdir()
    write_questions(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    texts = [document.text for document in tiny.ZipfText().documents("train")]
    as_transformers(train_tokenizer(texts, tiny.PACKING.vocab_size)).save_pretrained(folder)
    tiny.model("mhmoe_compute", max_position_embeddings=CONTEXT).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ours(checkpoint: Path) -> tuple[Any, Any]:
    return load(str(checkpoint), device="cpu")


class Request:
    """What lm-eval hands to a model."""

    def __init__(self, context: str, continuation: str, task: str = "task") -> None:
        self.args, self.task_name = (context, continuation), task


def requests() -> list[Any]:
    draw, known = np.random.RandomState(1), words()
    made = []
    for _ in range(8):
        context = sentence(draw, known, 1, 40)
        made += [Request(context, f" {sentence(draw, known, 1, 5)}") for _ in range(3)]
        made += [Request(context, " a"), Request(context, " b"), Request("", sentence(draw, known, 2, 5))]
    return made


def same(ours: list[tuple[float, bool]], theirs: list[tuple[float, bool]]) -> bool:
    close = np.allclose([score for score, _ in ours], [score for score, _ in theirs], rtol=1e-6, atol=1e-4)
    return close and [best for _, best in ours] == [best for _, best in theirs]


# ---- the same numbers ------------------------------------------------------------------------


def test_every_kind_of_task_scores_exactly_as_in_lm_eval(data: Path, ours: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = ours
    result = evaluate(model, tokenizer, KINDS, data, progress=False)
    write_tasks(tmp_path / "tasks", find(KINDS), data, cache=tmp_path / "cache")
    theirs: Any = simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4),
        tasks=list(KINDS),
        task_manager=TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
    )
    assert list(result.tasks) == KINDS
    for name in KINDS:
        values, expected = result.tasks[name], theirs["results"][name]
        assert values.n == ITEMS == len(theirs["samples"][name])
        measures = [m for m in ("acc", "acc_norm") if f"{m},none" in expected]
        assert [*values.accuracies] == measures
        for measure in measures:
            if name == "truthfulqa_mc2":  # a share of probability, not a count
                assert values.accuracies[measure].value == pytest.approx(expected[f"{measure},none"], abs=1e-6)
            else:
                assert values.accuracies[measure].value == expected[f"{measure},none"]
            assert values.accuracies[measure].stderr == pytest.approx(expected[f"{measure}_stderr,none"], rel=1e-5)
        per_item = [by_hand(sample, name) for sample in theirs["samples"][name]]
        for number, measure in enumerate(("bits_per_byte", "margin")):
            assert values.finer[measure].value == pytest.approx(np.mean([pair[number] for pair in per_item]), abs=1e-5)
        advantages = unpack(values.items.values["advantage"])
        assert advantages.mean() == pytest.approx(values.finer["advantage"].value, abs=1e-3)
    assert result.tasks["truthfulqa_mc1"].cut == 1.0  # its prompt alone is longer than this context
    assert result.tasks["xnli_de"].cut == 0.0
    assert result.data is not None and result.data.files[TASKS["rte"].file] == sha256_of(data / TASKS["rte"].file)
    assert from_json(ZeroShotScores, json.loads(json.dumps(dataclasses.asdict(result), allow_nan=False))) == result


def by_hand(sample: dict[str, Any], name: str) -> tuple[float, float]:
    """Bits per byte of the right answer and its margin, from what lm-eval logged."""
    document = sample["doc"]
    if name == "truthfulqa_mc2":
        right = {i for i, label in enumerate(document["mc2_targets"]["labels"]) if label}
    elif name == "winogrande":
        right = {int(document["answer"]) - 1}
    else:
        right = {int(sample["target"])}
    bits = {True: math.inf, False: math.inf}
    for i, ((_, continuation), ((score, _),)) in enumerate(zip(sample["arguments"], sample["resps"], strict=True)):
        bits[i in right] = min(bits[i in right], -score / math.log(2) / len(continuation.encode()))
    return bits[True], bits[False] - bits[True]


@torch.no_grad()
def test_scores_are_sums_of_the_models_own_log_probabilities(ours: tuple[Any, Any]) -> None:
    model, tokenizer = ours
    asked = requests()
    for request, (score, _) in zip(asked, LengthBatchedLM(*ours, progress=False).loglikelihood(asked), strict=True):
        context, continuation = (tokenizer.encode(text) for text in request.args)
        whole = [*(context or [tokenizer.bos_token_id]), *continuation][-CONTEXT - 1 :]
        log_probs = model(torch.tensor([whole[:-1]])).logits[0].log_softmax(-1)
        expected = sum(float(log_probs[i - 1, whole[i]]) for i in range(len(whole) - len(continuation), len(whole)))
        assert score == pytest.approx(expected, abs=1e-4)


@pytest.fixture(scope="module")
def reference(ours: tuple[Any, Any]) -> list[tuple[float, bool]]:
    return HFLM(pretrained=ours[0], tokenizer=ours[1], batch_size=1).loglikelihood(requests(), disable_tqdm=True)


@pytest.mark.parametrize("batch_tokens", [1, 200, 10**6])
@pytest.mark.parametrize("can_keep", [True, False])
def test_how_requests_are_batched_does_not_change_their_scores(
    ours: tuple[Any, Any], reference: list[tuple[float, bool]], batch_tokens: int, can_keep: bool
) -> None:
    batched = LengthBatchedLM(*ours, batch_tokens=batch_tokens, progress=False)
    batched.can_keep = can_keep
    assert same(batched.loglikelihood(requests()), reference)


def test_a_model_that_is_not_ours_scores_as_in_lm_eval(checkpoint: Path, tmp_path: Path, ours: tuple[Any, Any]) -> None:
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    LlamaForCausalLM(LlamaConfig(vocab_size=320, max_position_embeddings=CONTEXT, **sizes)).save_pretrained(tmp_path)
    ours[1].save_pretrained(tmp_path)
    model, tokenizer = load(str(tmp_path), device="cpu")
    reference = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=5)
    batched = LengthBatchedLM(model, tokenizer, batch_tokens=300, progress=False)
    assert not batched.can_branch
    assert same(batched.loglikelihood(requests()), reference.loglikelihood(requests(), disable_tqdm=True))


def test_equal_rows_go_through_the_model_once(ours: tuple[Any, Any]) -> None:
    batched = LengthBatchedLM(*ours, progress=False)
    once = batched.loglikelihood([Request("a b c", " a")])
    tokens = batched.tokens
    assert batched.loglikelihood([Request("a b c", " a"), Request("a b c", " a")]) == once * 2
    assert batched.tokens == 2 * tokens


def test_what_requests_begin_with_goes_through_our_models_once(ours: tuple[Any, Any]) -> None:
    sharing = [Request("a b c d e f g", answer) for answer in (" a b", " b a", " c a")]
    branching, plain = (LengthBatchedLM(*ours, progress=False) for _ in range(2))
    assert branching.can_branch
    plain.can_branch = False
    assert same(branching.loglikelihood(sharing), plain.loglikelihood(sharing))
    read = [plain.tok_encode("".join(request.args))[:-1] for request in sharing]
    assert plain.tokens == sum(map(len, read))
    assert branching.tokens == len({tuple(row[:end]) for row in read for end in range(1, len(row) + 1)})


def test_trees_are_for_the_one_kernel_that_takes_their_mask(checkpoint: Path, reference: Any) -> None:
    model, tokenizer = load(str(checkpoint), device="cpu")
    model.set_attn_implementation("eager")
    batched = LengthBatchedLM(model, tokenizer, progress=False)
    assert not batched.can_branch
    assert same(batched.loglikelihood(requests()), reference)


def test_a_small_budget_of_logits_does_not_change_scores(
    ours: tuple[Any, Any], reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    batched = LengthBatchedLM(*ours, progress=False)
    monkeypatch.setattr(length_batched, "_LOGITS", 60 * batched.vocab_size)
    assert same(batched.loglikelihood(requests()), reference)


@pytest.mark.parametrize("texts", [("a b", ""), ("  ", "a b")])
def test_an_answer_without_tokens_or_context_is_refused(ours: tuple[Any, Any], texts: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="cannot be scored"):
        LengthBatchedLM(*ours, progress=False).loglikelihood([Request(*texts)])


def test_a_model_that_gives_no_numbers_has_no_scores(checkpoint: Path) -> None:
    model, tokenizer = load(str(checkpoint), device="cpu")
    torch.nn.init.constant_(next(model.parameters()), float("nan"))
    with pytest.raises(ValueError, match="no numbers for likelihoods"):
        LengthBatchedLM(model, tokenizer, progress=False).loglikelihood(requests()[:3])


def test_templates_are_compiled_once_and_lm_eval_is_left_as_it_was() -> None:
    compiler = env.from_string
    with templates_compiled_once():
        assert env.from_string("{{x}}") is env.from_string("{{x}}")
        assert apply_template("{{x}}", {"x": 1}) + apply_template("{{x}}", {"x": 2}) == "12"
    assert env.from_string == compiler


def test_a_continuation_longer_than_the_context_is_scored_as_a_text_is(ours: tuple[Any, Any]) -> None:
    text = sentence(np.random.RandomState(2), words(), 90, 91)
    reference = HFLM(pretrained=ours[0], tokenizer=ours[1])
    with pytest.raises(AssertionError):  # lm-eval itself stops
        reference.loglikelihood([Request("", text)], disable_tqdm=True)
    batched = LengthBatchedLM(*ours, progress=False)
    ((score, _),) = batched.loglikelihood([Request("", text)])
    rolling: Any = reference.loglikelihood_rolling([type("R", (), {"args": (text,)})()], disable_tqdm=True)
    assert score == pytest.approx(rolling[0], abs=1e-3)
    assert (batched.windowed["task"], batched.cut["task"]) == (1, 1)


def test_evaluation_leaves_the_model_in_its_mode(data: Path, checkpoint: Path) -> None:
    model, tokenizer = load(str(checkpoint), device="cpu")
    for training in (True, False):
        model.train(training)
        evaluate(model, tokenizer, ["piqa"], data, limit=1, progress=False)
        assert model.training is training


def test_white_space_that_moves_to_the_answer_counts() -> None:
    assert scored_bytes("a question: ", "é") == 3


# ---- the tasks -------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [*ENGLISH, *XNLI], ids=lambda task: task.name)
def test_a_local_task_differs_from_the_stock_one_in_nothing_but_its_data(task: Any, tmp_path: Path) -> None:
    path = tmp_path / task.file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    with gzip.open(path, "w"):
        pass
    write_manifest(tmp_path)
    (written,) = write_tasks(tmp_path, [task], tmp_path)
    local, stock = load_yaml(written), load_yaml(stock_file(task))
    about_data = {"dataset_path", "dataset_name", "dataset_kwargs", "training_split", "validation_split", "test_split"}
    kept = {key for key in local.keys() | stock.keys() if local.get(key) != stock.get(key)} - about_data - {"tag"}
    assert kept == set()
    assert stock[f"{task.split}_split"] == local[f"{task.split}_split"] == task.split
    assert local["task"] == task.name


def test_tables_of_tasks_are_found_by_one_word_and_each_task_once() -> None:
    assert find(["english"]) == ENGLISH and len(XNLI) == 14
    assert find(["piqa", "english", "piqa"]) == (TASKS["piqa"], *(t for t in ENGLISH if t.name != "piqa"))


# ---- the command -----------------------------------------------------------------------------


def test_the_command_prints_a_table_and_writes_json(
    data: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out" / "scores.json"
    arguments = [str(checkpoint), "--tasks", "boolq", "piqa", "--data", str(data), "--limit", "3"]
    assert main([*arguments, "--device", "cpu", "--output", str(file)]) == 0
    out, err = capsys.readouterr()
    assert not err  # no bars where no terminal shows them
    assert out.splitlines()[0].startswith("| task") and "| boolq" in out and "| piqa" in out
    written = json.loads(file.read_text())
    assert written["checkpoint"] == str(checkpoint)
    assert written["settings"] == {"num_fewshot": 0, "limit": 3, "max_length": CONTEXT} | {
        "lm_eval": written["provenance"]["versions"]["lm_eval"]
    }
    assert written["tasks"]["boolq"]["n"] == 3 and written["tasks"]["boolq"]["majority"] is not None


def test_the_command_writes_tasks_for_lm_eval(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--write-tasks", str(tmp_path), "--tasks", "rte", "arc_easy", "--data", str(data)]) == 0
    assert "--include_path" in capsys.readouterr().out
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    assert manager.all_subtasks == ["arc_easy", "rte"]


@pytest.fixture
def error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The one line with which a command ends, and that it ends with exit code 2."""
    monkeypatch.delenv("MHMOE_DATA", raising=False)

    def line(*arguments: str) -> str:
        capsys.readouterr()
        assert main(arguments) == 2
        (only,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error: ")]
        return only

    return line


def test_wrong_arguments_are_one_clear_line(error: Any, data: Path, checkpoint: Path, tmp_path: Path) -> None:
    given = [str(checkpoint), "--data", str(data)]
    assert "task 'arc_esy' is not known; choose among english" in error(*given, "--tasks", "arc_esy")
    assert "limit=0 is not allowed; it must be at least 1" in error(*given, "--tasks", "piqa", "--limit", "0")
    assert "batch_tokens=0" in error(*given, "--tasks", "piqa", "--batch-tokens", "0")
    assert "no data folder is given" in error(str(checkpoint), "--tasks", "piqa")
    assert "no checkpoint is given" in error("--data", str(data), "--tasks", "piqa")
    assert "is a folder; name a file" in error(*given, "--tasks", "piqa", "--output", str(tmp_path))
    assert "device='nowhere'" in error(*given, "--tasks", "piqa", "--device", "nowhere")


def test_data_that_are_not_there_or_damaged_are_one_clear_line(
    error: Any, data: Path, checkpoint: Path, tmp_path: Path
) -> None:
    def scoring(folder: Path | str, task: str = "piqa") -> str:
        return error(str(checkpoint), "--tasks", task, "--data", str(folder))

    assert "task xnli_th needs" in scoring(data, "xnli_th")
    assert "has no manifest.json" in scoring(tmp_path)
    path = tmp_path / TASKS["piqa"].file
    path.parent.mkdir(parents=True)
    path.write_bytes((data / TASKS["piqa"].file).read_bytes())
    (tmp_path / "manifest.json").write_text('{"files": []}')
    assert "is not listed in manifest.json" in scoring(tmp_path)
    write_manifest(tmp_path)
    path.write_bytes(b"cut short")
    assert "is damaged" in scoring(tmp_path)
    write_manifest(tmp_path)  # which vouches for nonsense
    assert "task piqa: cannot read its items from harness/piqa" in scoring(tmp_path)
    path.write_bytes(gzip.compress(json.dumps({"goal": "a", "sol1": "b", "sol2": "c", "label": 5}).encode()))
    write_manifest(tmp_path)
    assert "task piqa" in scoring(tmp_path)
    assert "task piqa: cannot read its items from the hub" in scoring("hub")


def test_checkpoints_that_cannot_be_used_are_one_clear_line(
    error: Any, data: Path, checkpoint: Path, tmp_path: Path
) -> None:
    def scoring(folder: Path) -> str:
        return error(str(folder), "--tasks", "piqa", "--data", str(data))

    def changed(name: str, **keys: object) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for path in checkpoint.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        config = json.loads((folder / "config.json").read_text()) | keys
        kept = {key: value for key, value in config.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(kept))
        return folder

    assert "is no folder and no model on the hub" in scoring(tmp_path / "missing")
    assert "has no config.json" in scoring(tmp_path)
    assert "model type `mhmoe9`" in scoring(changed("architecture", model_type="mhmoe9", auto_map=None))
    moe = json.loads((checkpoint / "config.json").read_text())["moe"]
    assert f"{moe['kind']} has no field 'sub_heads'" in scoring(changed("version", moe=moe | {"sub_heads": 2}))
    assert "does not fit its config" in scoring(changed("deeper", num_hidden_layers=4))
    assert "does not fit its config" in scoring(changed("shallower", moe=None))
    cut = changed("cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:1000])
    assert "cannot be loaded" in scoring(cut)


def test_a_label_that_names_no_choice_is_refused(ours: tuple[Any, Any], data: Path, tmp_path: Path) -> None:
    path = tmp_path / TASKS["boolq"].file
    path.parent.mkdir(parents=True)
    good = {"question": "a", "passage": "b", "idx": 0, "label": 1}
    lines = [json.dumps(good), json.dumps(good | {"label": -1})]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    write_manifest(tmp_path)
    with pytest.raises(UserError, match="item 1 has the label -1 for 2 choices"):
        evaluate(*ours, ["boolq"], tmp_path, progress=False)
