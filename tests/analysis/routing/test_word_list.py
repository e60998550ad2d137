"""The command compares any list of words with all others, by the functions that Figure 7 uses."""

import gzip
import json
import random
from pathlib import Path

import pytest

from analysis.routing.text import load_checkpoint, untrained
from analysis.routing.words.polysemy import listed_groups
from analysis.routing.words.sub_tokens import measure_words
from analysis.routing.words.word_list import main, read_texts
from baselines.densely_gated import densely_gated
from mhmoe.data.tokenizer import as_transformers
from mhmoe.io import UserError
from tests import tiny

WORDS = ("ba", "moli", "ku", "zure", "lin", "tepo", "sa", "rumo")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, draw = tmp_path_factory.mktemp("list"), random.Random(0)
    models = {name: tiny.model(name) for name in ("mhmoe_parameters", "dense")}
    models["mixture of all"] = tiny.model("xmoe", moe=densely_gated(tiny.DIM, 4, expert_dim=8).to_dict())
    found = {name: folder / name for name in (*models, "list.txt", "text.jsonl.gz", "text.txt")}
    packed = tiny.text(folder / "packed")
    for name, model in models.items():
        model.save_pretrained(found[name])
        as_transformers(packed.tokenizer).save_pretrained(found[name])
    documents = [" ".join(draw.choices(WORDS, k=40)) for _ in range(4)]
    found["text.txt"].write_text(documents[0])
    found["text.jsonl.gz"].write_bytes(gzip.compress("\n".join(json.dumps({"text": d}) for d in documents).encode()))
    found["list.txt"].write_text("# from somewhere\nku, Moli\nlin\n")
    return found


def call(files: dict[str, Path], *more: str, model: str = "mhmoe_parameters", text: str = "text.jsonl.gz") -> int:
    return main([str(files[model]), "--words", str(files["list.txt"]), "--text", str(files[text]), *more])


def test_the_table_has_the_means_of_the_listed_words_and_of_all_others(files: dict[str, Path], capsys):
    assert call(files, "--seed", "3", "--min-count", "2") == 0
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    rows = {line[0]: line for line in lines if len(line) > 3}
    model, tokenizer = load_checkpoint(files["mhmoe_parameters"])
    texts = read_texts(files["text.jsonl.gz"])
    loud = files["text.jsonl.gz"].with_name("TEXT.JSONL.GZ")
    loud.write_bytes(files["text.jsonl.gz"].read_bytes())
    assert read_texts(loud) == texts
    assert len(texts) == 4
    for view, of in (("raw", model), ("null_raw", untrained(model, 3))):
        words = measure_words(of, tokenizer, texts, min_count=2, max_words=None).words
        assert set(words) == set(WORDS)
        groups = listed_groups(words, ["ku", "moli", "lin"])
        means = [sum(words[w].value for w in WORDS if groups[w] is side) / (3 if side else 5) for side in (True, False)]
        assert rows[view][1:4] == ["3 / 5", f"{means[0]:.3f}", f"{means[1]:.3f}"]
    assert {"matched", "change_raw", "change_matched"} < rows.keys()


def test_without_a_seed_there_is_no_null(files: dict[str, Path], capsys):
    assert call(files, "--min-count", "1", text="text.txt") == 0
    out = capsys.readouterr().out
    assert "| raw" in out and "null_raw" not in out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"model": "dense"}, "no layer of the model chooses experts"),
        ({"model": "mixture of all"}, "no layer of the model chooses experts"),
        ({"more": ("--min-count", "999")}, "0 listed words and 0 others stand in the text 999 times or more"),
    ],
    ids=["dense", "every expert is used", "too rare"],
)
def test_mistakes_end_in_one_line(files: dict[str, Path], capsys, more, said):
    assert call(files, *more.pop("more", ()), **more) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"title": "x"}\n', "must be a JSON object with a text"),
        ("a.txt", " \n", "has no text"),
        ("a.JSON", '{"text": "x"}', "is JSON and would be read as text; give JSON lines named .jsonl"),
    ],
    ids=["no text key", "empty", "json"],
)
def test_a_text_that_cannot_be_used_is_refused(tmp_path: Path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=said):
        read_texts(tmp_path / name)
