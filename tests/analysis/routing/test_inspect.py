"""The command shows every token once, with the experts that the model chose, and needs nothing else."""

import html.parser
import http.client
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from analysis.routing.explorer import LONGEST, checkpoints, server
from analysis.routing.inspect import main
from analysis.routing.routing_page import page, panel
from analysis.routing.text import load_checkpoint
from mhmoe.commands.routed import routed_tokens, terminal
from mhmoe.data.tokenizer import as_transformers
from mhmoe.io import UserError
from mhmoe.layers.expert_choice import ExpertChoiceConfig
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.routers import XMoERouterConfig
from mhmoe.model.masked import MHMoEForMaskedLM
from tests import tiny

TEXT = 'ba moli <b>"ku" & é☃ ' + "ba moli ku " * 30  # longer than one window
OPTIONS = {"num_hidden_layers": 4, "max_position_embeddings": 32}


class Spans(html.parser.HTMLParser):
    """All tags with their attributes, and the text inside the elements of each class."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta",):
            self._open.append(dict(attrs).get("class") or "")
            self.texts.setdefault(self._open[-1], []).append("")

    def handle_endtag(self, tag: str) -> None:
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for name in set(self._open):
            self.texts[name][-1] += data


def _save(folder: Path, system: str) -> Path:
    text = tiny.text(folder / "packed")
    checkpoint = folder / system
    tiny.model(system, **OPTIONS).save_pretrained(checkpoint)
    as_transformers(text.tokenizer).save_pretrained(checkpoint)
    return checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(tmp_path_factory.mktemp("inspect"), "mhmoe_parameters")


def _experts(checkpoint: Path) -> list[list[int]]:
    """Each token's experts, layer by layer and head by head, read off the model window by window."""
    model, tokenizer = load_checkpoint(checkpoint)
    stream, found = [0, *tokenizer.encode(TEXT, add_special_tokens=False).ids], []
    for start in range(0, len(stream), 32):
        with torch.no_grad():
            routing = model(torch.tensor([stream[start : start + 32]]), output_routing=True).routing
        for position in range(len(stream[start : start + 32])):
            found.append([int(e) for layer in routing for e in layer.index[0, position].flatten()])
    return found[1:]


def test_the_page_is_self_contained_and_shows_every_token_once(checkpoint: Path) -> None:
    model, tokenizer = load_checkpoint(checkpoint)
    tokens = routed_tokens(model, tokenizer, TEXT)
    text = page([panel(tokens, [0, 1], [2, 4])], title="A <title>")
    parsed = Spans(text)
    ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
    shown = parsed.texts["piece"]
    assert len(shown) == len(tokens) == len(ids)
    whole = [i for i, token in enumerate(ids) if "\ufffd" not in tokenizer.decode([token])]
    assert [shown[i] for i in whole] == [tokenizer.decode([ids[i]]).replace(" ", "·") for i in whole]
    assert (
        0
        < len(ids) - len(whole)
        == sum(shown[i] == tokenizer.id_to_token(ids[i]) for i in set(range(len(ids))) - set(whole))
    )
    assert {tag for tag, _ in parsed.tags}.isdisjoint({"script", "link", "img", "iframe", "b"})
    assert not re.search(r"https?:|url\(|@import|src=|href=", text)


def test_the_page_shows_the_experts_and_gates_that_the_model_chose(checkpoint: Path) -> None:
    tokens = routed_tokens(*load_checkpoint(checkpoint), TEXT)
    parsed = Spans(page([panel(tokens, [0, 1], [2, 4])], title="t").partition("<h2>")[0])
    cells = [int(text) for text in parsed.texts["expert"]]
    assert cells == [expert for token in _experts(checkpoint) for expert in token]
    hovers = [attrs["title"] for _, attrs in parsed.tags if attrs.get("class") == "expert"]
    first = f"layer 1, sub-token 1: expert {cells[0]}, gate weight {tokens[0].weight[0, 0, 0]:.3f}"
    assert hovers[0] is not None and hovers[0].startswith(first)


def test_the_terminal_shows_a_line_a_token_with_the_same_experts(checkpoint: Path) -> None:
    tokens = routed_tokens(*load_checkpoint(checkpoint), TEXT)
    plain = terminal(tokens, [0, 1], [2, 4], coloured=False)
    lines = plain.splitlines()[1:]
    assert len(lines) == len(tokens) and "\x1b" not in plain
    assert [[int(e) for e in line.split()[-4:]] for line in lines] == _experts(checkpoint)
    coloured = terminal(tokens, [0, 1], [2, 4], coloured=True)
    assert "\x1b[30;48;2;" in coloured
    stripped = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert [line.split() for line in stripped.splitlines()] == [line.split() for line in plain.splitlines()]


def test_the_command_prints_or_writes_a_page(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(checkpoint), "ba moli"]) == 0
    assert "layer 1 (block 2)  layer 2 (block 4)" in capsys.readouterr().out
    target = tmp_path / "page.html"
    assert main([str(checkpoint), "ba moli", "--html", str(target), "--layer", "2"]) == 0
    assert "layer 2, sub-token 1" in target.read_text() and "layer 1, sub-token" not in target.read_text()


def test_tokens_routed_whole_have_one_cell_a_layer(tmp_path: Path) -> None:
    model, tokenizer = load_checkpoint(_save(tmp_path, "xmoe"))
    tokens = routed_tokens(model, tokenizer, "ba moli")
    assert all(token.index.shape == (2, 1, 1) for token in tokens)
    assert "routed whole, top 1 of 4 experts" in page([panel(tokens, [0, 1], [2, 4])], title="t")


def test_a_model_whose_experts_choose_tokens_is_refused(tmp_path: Path, capsys) -> None:
    experts = ExpertsConfig(dim=tiny.DIM, num_experts=4, expert_dim=8)
    moe = ExpertChoiceConfig(router=XMoERouterConfig(dim=tiny.DIM, num_experts=4), experts=experts).to_dict()
    checkpoint = _save(tmp_path, "xmoe")
    MHMoEForMaskedLM(tiny.config("xmoe", is_causal=False, moe=moe)).save_pretrained(checkpoint)
    assert main([str(checkpoint), "ba moli"]) == 2
    assert "in expert_choice experts choose tokens; give a model" in capsys.readouterr().err


def test_a_layer_is_named_by_the_block_that_chooses_whichever_kind_it_is_of(tmp_path: Path, capsys) -> None:
    checkpoint = _save(tmp_path, "xmoe")
    tiny.model("xmoe", feed_forward=tiny.MOE["xmoe"].to_dict()).save_pretrained(checkpoint)  # pyright: ignore
    assert main([str(checkpoint), "ba moli"]) == 0
    assert "layer 1 (block 1)  layer 2 (block 2)" in capsys.readouterr().out


# ---- the explorer ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ask(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., tuple[int, str]]]:
    """Status and page of a query, as a browser asks."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "ours").symlink_to(checkpoint)
    (folder / "theirs").symlink_to(_save(folder / "other", "xmoe"))
    with server(checkpoints(folder), 0, "ba moli") as answering:
        threading.Thread(target=answering.serve_forever, daemon=True).start()
        host, port = answering.server_address[:2]

        def asked(path: str = "/", name: str = "", **query: str) -> tuple[int, str]:
            connection = http.client.HTTPConnection(str(host), port, timeout=30)
            address = f"{path}?{urllib.parse.urlencode(query)}"
            connection.request("GET", address, headers={"Host": f"{name or host}:{port}"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

        yield asked
        answering.shutdown()


def test_the_explorer_shows_any_text_of_two_models_side_by_side(ask, checkpoint: Path) -> None:
    status, text = ask(text=TEXT, model="ours", beside="theirs")
    assert status == 200
    ours, theirs = (Spans(part) for part in re.findall(r"<section>.*?</section>", text, flags=re.DOTALL))
    _, tokenizer = load_checkpoint(checkpoint)
    ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
    assert len(ours.texts["piece"]) == len(theirs.texts["piece"]) == len(ids)
    shown = [int(e) for e in Spans(text.partition("<h2>What")[0]).texts["expert"]]
    assert shown == [expert for token in _experts(checkpoint) for expert in token]
    told = [attrs["title"] for _, attrs in ours.tags if " selections of " in (attrs.get("title") or "")]
    assert sum(int(re.findall(r": (\d+) sel", str(title))[0]) for title in told) == len(shown)
    assert "&lt;b&gt;" in text and "<b>" not in text


def test_the_explorer_begins_with_a_text_and_says_what_cannot_be_shown(ask) -> None:
    status, text = ask()
    assert status == 200 and Spans(text).texts["piece"] and ">ba moli</textarea>" in text
    assert "model &#39;none&#39; is not here; choose one of ours, theirs" in ask(model="none")[1]
    assert f"give at most {LONGEST:,}" in ask(text="a" * (LONGEST + 1))[1]
    assert ask(path="/etc/passwd")[0] == 404


def test_the_explorer_answers_nobody_who_calls_it_by_another_name(ask) -> None:
    assert ask(name="localhost")[0] == 200
    assert ask(name="example.com")[0] == 403


def _error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert not captured.out
    return line


def test_what_cannot_be_shown_ends_in_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dense = _save(tmp_path, "dense")
    capsys.readouterr()  # transformers' bar of what was saved
    assert _error([str(dense), "ba"], capsys).startswith("error: the checkpoint is a dense model")
    assert "it has no config.json" in _error([str(tmp_path / "none"), "ba"], capsys)
    assert "--layer 3 does not exist; the model has MoE layers 1 to 2" in _error(
        [str(checkpoint), "ba", "--layer", "3"], capsys
    )
    assert "the text is empty" in _error([str(checkpoint), ""], capsys)
    assert "no folder in it has one" in _error([str(tmp_path / "none"), "--serve"], capsys)
    assert "port=99999 cannot be had" in _error([str(checkpoint), "--serve", "--port", "99999"], capsys)
    (dense / "tokenizer.json").unlink()
    assert "it has no tokenizer.json" in _error([str(dense), "ba"], capsys)


def test_a_tokenizer_that_was_set_to_cut_and_pad_still_reads_the_whole_text(tmp_path: Path, capsys) -> None:
    checkpoint = _save(tmp_path, "mhmoe_parameters")
    text = "ba moli ku " * 5
    assert main([str(checkpoint), text]) == 0
    whole = capsys.readouterr().out
    tokenizer = as_transformers(load_checkpoint(checkpoint)[1])
    tokenizer(text, truncation=True, max_length=4, padding="max_length")  # which save_pretrained keeps
    tokenizer.save_pretrained(checkpoint)
    assert main([str(checkpoint), text]) == 0
    assert capsys.readouterr().out == whole and whole.count("\n") > 5


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", b"{", "config.json is damaged"),
        ("config.json", b'{"model_type": "gpt2"}', "type 'gpt2', not 'mhmoe'"),
        ("model.safetensors", b"broken", "cannot be loaded"),
        ("tokenizer.json", b"{}", "cannot be loaded"),
    ],
)
def test_a_damaged_checkpoint_is_one_clear_error(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    folder = _save(tmp_path, "xmoe")
    (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_checkpoint(folder)


def test_parameters_that_a_checkpoint_lacks_are_not_drawn_at_random(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = _save(tmp_path, "xmoe")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 missing weights, such as model\.norm\.weight"):
        load_checkpoint(folder)
