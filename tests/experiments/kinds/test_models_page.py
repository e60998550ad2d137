"""The page of models has a hash a model, which any change of any weight changes."""

import copy
import dataclasses
from pathlib import Path

import torch

from analysis.weights import measure_weights
from experiments.kinds.models import WEIGHTS
from experiments.models import PAGE
from experiments.runner.measurements import save as save_measured
from experiments.runner.store import Records
from tests import tiny
from tests.fake_records import PROVENANCE
from tests.forged import forged, save
from tests.mini import MINI

ENGLISH = dataclasses.replace(PAGE, task="english")  # of which there are forged records


def test_a_change_of_one_bit_of_one_weight_changes_the_hash_and_a_copy_does_not():
    model = tiny.model("xmoe")
    found = measure_weights(model)
    assert measure_weights(copy.deepcopy(model)) == found
    for name, parameter in model.named_parameters():
        other = copy.deepcopy(model)
        changed = dict(other.named_parameters())[name].data.view(-1)
        changed[0] = torch.nextafter(changed[0], torch.tensor(torch.inf))
        assert measure_weights(other).sha256 != found.sha256, (name, parameter.shape)
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        for value in scaled.parameters():
            value.mul_(2)
    assert abs(measure_weights(scaled).norm / found.norm - 2) < 1e-6


def test_the_page_has_a_run_a_model_at_one_rate_and_the_hash_of_each_that_was_measured(tmp_path: Path):
    runs = ENGLISH.runs(MINI, (1,), Records(MINI, tmp_path))
    assert [run.system.name for run in runs] == [system.name for system in PAGE.systems] and len(runs) == 4
    assert {run.learning_rate for run in runs} == {8e-3}  # none is tried first
    weights = measure_weights(tiny.model("dense"))
    for run in runs:
        save(record := forged(run), tmp_path)
        if run.system.name == "model_dense":
            save_measured(WEIGHTS, record, weights, PROVENANCE, tmp_path)
    section = ENGLISH.section(MINI, Records(MINI, tmp_path), tmp_path)
    assert section is not None
    rows = {row["name"]: row["sha256"] for row in section.rows}
    assert rows == dict.fromkeys(rows, None) | {"english-model_dense-seed1": weights.sha256} and len(rows) == 4
    assert weights.sha256 in section.markdown
