"""Files of measurements of an earlier version are read as if this one had written them."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from analysis.results import Source
from analysis.routing.activation import ExpertActivation, QuestionRouting
from analysis.routing.words.known_senses import KnownSenses
from analysis.routing.words.senses import WordRouting
from analysis.zero_shot.answers import unpack
from analysis.zero_shot.results import ZeroShotScores
from analysis.zero_shot.tasks import TASKS
from experiments.catalog import pages
from experiments.runner.measurements import Measured, read_measured
from mhmoe.io import UserError

# One committed file of each kind as version 1 had it, cut down; of experts three, of words and tasks a few.
FILES: dict[str, Any] = {
    raw["measurement"]: raw for raw in json.loads(Path(__file__).with_name("earlier_measurements.json").read_bytes())
}
KNOWN = {measurement.name: measurement for page in pages().values() for measurement in page.measurements}


def read(raw: Any, folder: Path) -> Measured[Any]:
    (folder / "file.json").write_text(json.dumps(raw))
    return read_measured(folder / "file.json", KNOWN[raw["measurement"]])


@pytest.mark.parametrize("name", FILES)
def test_an_earlier_file_is_read_as_todays_and_keeps_what_it_is_of(name: str, tmp_path: Path) -> None:
    found = read(FILES[name], tmp_path)
    assert found.schema_version == 2 and FILES[name]["schema_version"] == 1
    for field in ("run", "run_fingerprint", "fingerprint", "settings", "provenance", "seed"):
        assert getattr(found, field) == FILES[name][field]
    assert read(dataclasses.asdict(found), tmp_path) == found


def test_counts_and_groups_are_the_earlier_ones(tmp_path: Path) -> None:
    whole, counts = read(FILES["expert_activation"], tmp_path).values, FILES["expert_activation"]["values"]
    assert isinstance(whole, ExpertActivation) and dataclasses.asdict(whole.counts) == counts and whole.data is None
    found, routed = read(FILES["routing_english"], tmp_path).values, FILES["routing_english"]["values"]
    assert isinstance(found, QuestionRouting)
    assert dataclasses.asdict(found.untrained) == routed["untrained"] != routed["trained"]
    sources = routed["data"]["tasks"]
    assert found.data is not None and found.data.kind == "local"
    assert found.data.files == {TASKS[name].file: sources[name]["sha256"] for name in ("rte", "piqa")}


@pytest.mark.parametrize("name", ["word_senses", "known_senses"])
def test_words_have_columns_with_names_where_they_had_positions(name: str, tmp_path: Path) -> None:
    found, values = read(FILES[name], tmp_path).values, FILES[name]["values"]
    assert isinstance(found, WordRouting) and dataclasses.asdict(found.text) == values["text"]
    rows = dataclasses.asdict(found.words)
    for i, (word, entry) in enumerate(values["words"].items()):
        fields = ("word", "first", "part", "count", "tokens", "trained", "untrained")
        assert [rows[field][i] for field in fields] == [word, *entry]
    for key, views in found.comparisons.items():
        for view, compared in views.items():
            expected = {"mean": None, "median": None, **values[key][view]}
            assert json.loads(json.dumps(dataclasses.asdict(compared))) == expected
    assert {"pairs", *found.comparisons["senses"]} == values["senses"].keys()
    if isinstance(found, KnownSenses):
        assert {name: dataclasses.asdict(c) for name, c in found.choices.items()} == values["choices"]
    else:
        assert found.data == Source(kind="local", files=values["data"])  # the first files did not say of which kind


def test_scores_are_found_by_measure(tmp_path: Path) -> None:
    found, values = read(FILES["zero_shot_english"], tmp_path).values, FILES["zero_shot_english"]["values"]
    assert isinstance(found, ZeroShotScores) and found.tokens == values["tokens"]
    assert dataclasses.asdict(found.settings) == values["settings"]
    for name, task in values["tasks"].items():
        scores = found.tasks[name]
        assert (scores.n, scores.majority, scores.cut) == (task["n"], task["majority"], task["cut"])
        for measure in {*task} & {"acc", "acc_norm", "bits_per_byte", "margin", "advantage"}:
            assert dataclasses.asdict(scores.measure(measure)) == task[measure]
        assert scores.items.values.keys() | {"sha256"} == task["items"].keys()
        assert all(unpack(packed).size == packed.n for packed in scores.items.values.values())


def test_a_model_without_experts_had_no_values(tmp_path: Path) -> None:
    assert read({**FILES["expert_activation"], "values": {}}, tmp_path).values is None


def damaged(raw: Any, *path: str) -> Any:
    raw = place = copy.deepcopy(raw)
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return raw


@pytest.mark.parametrize("name", FILES)
def test_an_earlier_file_that_lacks_something_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    raw = FILES[name]
    for broken in (
        damaged(raw, "fingerprint"),
        damaged(raw, "schema_version"),
        {**raw, "schema_version": 3},
        {**raw, "values": [1]},
        *(damaged(raw, "values", key) for key in raw["values"] if key in ("text", "words", "tasks", "selections")),
    ):
        with pytest.raises(UserError, match=r"measurement .*file.json is damaged .*; remove it and measure") as caught:
            read(broken, tmp_path)
        assert "\n" not in str(caught.value)
