"""Questions for every task of the zero-shot tables, in a data folder: made up of any words, or with known answers."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

from analysis.zero_shot.tasks import ENGLISH, TASKS
from experiments.stand_in.folder import GeneratedFolder
from mhmoe.data.synthetic import GeneratedCorpus
from mhmoe.io import sha256_of
from tests import tiny

KINDS = [*(task.name for task in ENGLISH), "xnli_de"]
ITEMS = 6

_SIZES: dict[str, Any] = {"documents_per_split": 60, "train_factor": 2, "sentences": 1}
MADE = GeneratedFolder(
    english=GeneratedCorpus(languages=2, topics=6, headwords=80, most_senses=5, **_SIZES),
    multilingual=GeneratedCorpus(languages=14, topics=28, headwords=200, **_SIZES),
    items=24,
)


def sentence(draw: np.random.RandomState, words: list[str], low: int, high: int) -> str:
    return " ".join(draw.choice(words, draw.randint(low, high)))


def documents(draw: np.random.RandomState, words: list[str]) -> dict[str, list[dict[str, Any]]]:
    """A few made-up items for every kind of task, in the schemas of the hub's data sets."""
    made: dict[str, list[dict[str, Any]]] = {}

    def some(low: int, high: int) -> str:
        return sentence(draw, words, low, high)

    def answers(number: int) -> list[str]:
        return [some(1, 6) for _ in range(number)]

    for i in range(ITEMS):
        number = 3 + i % 3
        choices = {"text": answers(number), "label": list("ABCDE"[:number])}
        arc = {"id": f"{i}", "question": some(3, 30), "choices": choices, "answerKey": "ABC"[i % 3]}
        goal = {"goal": some(2, 20), "sol1": some(1, 8), "sol2": some(1, 8), "label": i % 2}
        texts = {"sentence1": some(5, 40), "sentence2": some(3, 9), "label": i % 2, "idx": i}
        poll = {"question": some(3, 9), "passage": some(5, 60), "idx": i, "label": int(i > 1)}
        gap = {"sentence": f"{some(2, 9)} _ {some(1, 6)}.", "option1": words[i], "option2": words[-i - 1]}
        ending = {"ind": i, "activity_label": some(1, 2), "ctx": "", "ctx_a": some(3, 20), "ctx_b": some(1, 3)}
        ending |= {"endings": answers(4), "label": str(i % 4), "split": "val"}
        truth = {
            "question": some(3, 9),
            "mc1_targets": {"choices": answers(4), "labels": [1, 0, 0, 0]},
            "mc2_targets": {"choices": answers(5), "labels": [1, 1, 0, 0, 0]},
        }
        pair = {"premise": f"{some(2, 6)} Straße", "hypothesis": some(2, 4), "label": i % 3}
        book = {"id": f"{i}", "question_stem": some(2, 9), "choices": {**choices}, "answerKey": "ABC"[i % 3]}
        for task, document in (
            *(("arc_easy", arc), ("arc_challenge", arc), ("openbookqa", book), ("rte", texts)),
            *(("winogrande", {**gap, "answer": "12"[i % 2]}), ("piqa", goal), ("boolq", poll)),
            *(("hellaswag", ending), ("truthfulqa", truth), ("xnli_de", pair)),
        ):
            made.setdefault(task, []).append(document)
    return made


def write_manifest(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*.*") if path.is_file() and path.name != "manifest.json")
    entries = [{"file": path.relative_to(folder).as_posix(), "sha256": sha256_of(path)} for path in files]
    (folder / "manifest.json").write_text(json.dumps({"files": entries}))


def words() -> list[str]:
    return sorted({word for document in tiny.ZipfText().documents("train") for word in document.text.split()})


def write_questions(folder: Path) -> None:
    """harness/ with a few items a task, and the manifest."""
    made = documents(np.random.RandomState(0), words())
    for name in KINDS:
        task = TASKS[name]
        path = folder / task.file
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(document) + "\n" for document in made[task.folder])
        path.write_bytes(gzip.compress(lines.encode(), mtime=0))
    write_manifest(folder)
