"""Equal tuning: every system the same points, tokens and seeds; the best by `valid` alone is the tuned one."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.kinds.rounds import Round
from experiments.kinds.search import Search, _expected_best, _sizes
from experiments.layers import dense_layer
from experiments.report.render import render
from experiments.runner import store
from experiments.runner.gather import gather
from experiments.runner.manifest import differences, register
from experiments.runner.plan import final_runs
from experiments.runner.runs import model_config, training_config
from experiments.runner.store import Records
from experiments.runner.validation import judge, take_in
from experiments.scales import CPU, SCALES
from experiments.settings import SPACE, Settings, points
from experiments.systems import mhmoe, null, xmoe
from experiments.tuning import PAGE as TUNING
from mhmoe.io import UserError
from mhmoe.layers.config import config_from_dict
from mhmoe.layers.multi_head import MultiHeadConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig
from mhmoe.training.record import Record
from tests.forged import forged, save
from tests.mini import MINI

SCALE = dataclasses.replace(MINI, training={**MINI.training, "steps": 8})
FIRST, SECOND = TUNING.rounds
SMALL = dataclasses.replace(TUNING, rounds=(dataclasses.replace(FIRST, trials=4, kept=2),))
(ONLY,) = SMALL.rounds


def fill(results: Path, page: Search, losses: dict[str, list[float]]) -> Records:
    """Forged records of all short runs, and of what follows from them."""
    for _ in range(2):
        records = Records(SCALE, results)
        for run in page.runs(SCALE, (1,), records):
            base, _, number = run.system.name.rpartition("_t")
            save(forged(run, [*losses.get(base, [5.0, 4.0, 3.0, 2.0]), *[9.0] * 6][int(number)]), results)
    return Records(SCALE, results)


def test_every_system_gets_the_same_points_tokens_and_seeds() -> None:
    runs = TUNING.runs(CPU, CPU.seeds, Records(CPU, Path("none")))
    of = {base: [run for run in runs if run.system.name.rpartition("_t")[0] == base] for base in TUNING.bases}
    told = {
        base: [(run.learning_rate, run.seed, run.steps_share, training_config(run).to_dict()) for run in found]
        for base, found in of.items()
    }
    assert all(len(found) == 32 + 16 + 2 * 2 and found == told["dense"] for found in told.values())
    assert [share for *_, share, _ in told["dense"]] == [1 / 4] * 32 + [1 / 2] * 16 + [1.0] * 4
    assert sum(map(len, of.values())) == len(runs)
    assert not any(run.tests for run in runs)
    assert {run.seed for run in runs}.isdisjoint(CPU.seeds)


def test_the_records_of_finished_trials_lie_in_one_file_a_system(tmp_path: Path) -> None:
    records = fill(tmp_path, SMALL, {})
    for path in records.folder.glob("*.json"):
        register(path, records.folder)
    before, groups = dict(records.by_name), SMALL.gathered(SCALE)
    records.path(groups["tuning-null"][0]).rename(tmp_path / "left out")
    gather(Records(SCALE, tmp_path), groups)
    assert not (records.folder / "tuning-null.jsonl").exists(), "one of its runs is not done"
    (tmp_path / "left out").rename(records.path(groups["tuning-null"][0]))
    copied = records.path(groups["tuning-dense"][0])
    for _ in range(2):  # as if killed before the last single file was removed
        gather(Records(SCALE, tmp_path), groups)
        found = Records(SCALE, tmp_path)
        assert found.by_name == before and differences(records.folder) == []
        assert {path.stem for path in records.folder.glob("*.jsonl")} == set(groups)
        assert not [run for runs in groups.values() for run in runs if records.path(run).exists()]
        before[copied.stem].save(copied)
        register(copied, records.folder)
    assert not found.pending_runs(SMALL.runs(SCALE, (1,), found))


def test_a_file_of_records_is_judged_and_taken_in_like_one_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCALES, SCALE.name, SCALE)
    records = fill(tmp_path / "here", SMALL, {})
    gather(records, SMALL.gathered(SCALE))
    sent, there = records.folder / "tuning-null.jsonl", tmp_path / "there"
    found = judge(sent, [SMALL], there)
    assert found.verdict == "current" and found.name == f"{len(sent.read_bytes().splitlines())} records of mini"
    take_in(sent, found)
    assert found.place == there / "runs" / "mini" / "tuning-null.jsonl" and differences(found.folder) == []
    assert Records(SCALE, there).by_name.keys() == {run.name for run in SMALL.gathered(SCALE)["tuning-null"]}
    line, *others = sent.read_bytes().splitlines(keepends=True)
    run = SMALL.gathered(SCALE)["tuning-null"][0]
    longer = dataclasses.replace(SCALE, training={**SCALE.training, "steps": 80})
    sent.write_bytes(b"".join([forged(dataclasses.replace(run, scale=longer), 4.9).to_json().encode(), *others]))
    assert judge(sent, [SMALL], there).verdict.startswith("not current")
    sent.write_bytes(line.replace(b'"seed": 1000', b'"seed": 1001').replace(b'"seed":1000', b'"seed":1001'))
    with pytest.raises(UserError, match=r"line 1: fingerprint .* does not belong"):
        judge(sent, [SMALL], there)


def test_what_another_file_has_otherwise_is_not_taken_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCALES, SCALE.name, SCALE)
    here, sent = tmp_path / "here", tmp_path / "sent"
    gather(fill(here, SMALL, {}), SMALL.gathered(SCALE))
    before, run = Records(SCALE, here).by_name, SMALL.gathered(SCALE)["tuning-null"][0]
    same, other = before[run.name], forged(run, 4.9)
    several = sent / "runs" / "mini" / "mine.jsonl"
    single = save(other, sent)
    several.write_text(other.to_json())
    for path in (single, several):
        judged = judge(path, [SMALL], here)
        assert judged.verdict.startswith("of a run that has another record there")
        with pytest.raises(UserError, match="only current ones are registered"):
            take_in(path, judged)
    several.write_text(same.to_json() + other.to_json())
    with pytest.raises(UserError, match="several records of one run"):
        judge(several, [SMALL], here)
    assert judge(save(same, sent), [SMALL], here).verdict == "current"
    assert Records(SCALE, here).by_name == before
    longer = dataclasses.replace(SCALE, training={**SCALE.training, "steps": 16})
    monkeypatch.setitem(SCALES, SCALE.name, longer)
    again = forged(SMALL.gathered(longer)["tuning-null"][0], 4.9)  # of a declaration by which the others are stale
    assert judge(save(again, sent), [SMALL], here).verdict == "current"


def test_trials_whose_declaration_changed_are_done_again_beside_the_old_ones(tmp_path: Path) -> None:
    gather(fill(tmp_path, SMALL, {}), SMALL.gathered(SCALE))
    longer = dataclasses.replace(SCALE, training={**SCALE.training, "steps": 16})
    groups = {"tuning-null": SMALL.gathered(longer)["tuning-null"]}
    for left, run in enumerate(groups["tuning-null"][::-1]):
        found = Records(longer, tmp_path)
        assert [found.state(each) for each in groups["tuning-null"]] == ["stale"] * (4 - left) + ["done"] * left
        gather(found, groups)
        save(forged(run, 4.0), tmp_path)
    gather(Records(longer, tmp_path), groups)
    assert not list((tmp_path / "runs" / "mini").glob("english-null_t*-lr*.json"))
    assert not Records(longer, tmp_path).pending_runs(groups["tuning-null"])


def test_records_that_are_gathered_while_they_are_read_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = fill(tmp_path, SMALL, {})
    before, load = dict(records.by_name), store._loaded

    def late(file: str) -> list[Record]:
        if Path(file).stem == SMALL.gathered(SCALE)["tuning-null"][0].name:
            gather(records, SMALL.gathered(SCALE))
        return load(file)

    monkeypatch.setattr(store, "_loaded", late)
    assert Records(SCALE, tmp_path).by_name == before


def test_a_link_that_leads_nowhere_is_told_of(tmp_path: Path) -> None:
    records = fill(tmp_path, SMALL, {})
    (records.folder / "english-gone.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="remove links that lead nowhere"):
        Records(SCALE, tmp_path)


def test_a_file_of_records_that_was_edited_is_found(tmp_path: Path) -> None:
    records = fill(tmp_path, SMALL, {})
    gather(records, SMALL.gathered(SCALE))
    path = records.folder / "tuning-null.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[1].replace(b'"wall_seconds":', b'"wall_seconds":1'), *lines[2:]]))
    with pytest.raises(UserError, match=r"tuning-null\.jsonl, line 2 was changed after it was written"):
        Records(SCALE, tmp_path)
    path.write_bytes(lines[0] + b"{")
    with pytest.raises(UserError, match="run them again or remove it"):
        Records(SCALE, tmp_path)


def test_a_record_in_two_files_must_be_the_same(tmp_path: Path) -> None:
    records = fill(tmp_path, SMALL, {})
    run = SMALL.gathered(SCALE)["tuning-null"][0]
    gather(records, SMALL.gathered(SCALE))
    save(forged(run, 4.9), tmp_path)
    with pytest.raises(UserError, match="has another record of"):
        Records(SCALE, tmp_path)


@pytest.mark.parametrize("round_", TUNING.rounds, ids=["first", "second"])
def test_the_points_cover_the_space_evenly(round_: Round) -> None:
    drawn = round_.points()[: round_.trials]
    for name, values in round_.space.items():
        found = [getattr(p, name) if hasattr(p, name) else getattr(p.settings, name) for p in drawn]
        if isinstance(values, list):
            counts = [found.count(value) for value in values]
            assert max(counts) - min(counts) <= 2, name
        else:
            places = sorted(math.log(v / values[0]) / math.log(values[1] / values[0]) for v in found)
            n = len(places)
            assert all(i / n - 0.01 <= place <= (i + 1) / n + 0.01 for i, place in enumerate(places)), name


def test_a_round_lies_in_the_space_of_those_before_it_and_tries_other_points() -> None:
    for name, values in SECOND.space.items():
        assert set(values) <= set(SPACE[name]) or SPACE[name][0] <= values[0] < values[1] <= SPACE[name][1]
    everything = [TUNING.point(number) for number in range(32 + 1 + 16 + 1)]
    assert all(everything.count(point) == 1 for point in everything)
    assert (everything[32], everything[49]) == (*FIRST.also, *SECOND.also)


def test_the_settings_that_are_published_change_nothing() -> None:
    for system in (xmoe(8), mhmoe(8, "compute")):
        layer = system.layer(CPU)
        assert layer is not None and Settings().layer(layer) == layer
        assert Settings().layer(layer).to_dict() == layer.to_dict()
    assert Settings().training() == {"eps": 1e-6, "lr_multipliers": ()}


@pytest.mark.parametrize(
    ("field", "value"), [("norm", "layers"), ("gate", "sigmoids"), ("route_by", "token"), ("per_head", 2), ("eps", "0")]
)
def test_a_setting_that_is_none_is_refused_by_name_and_never_taken_for_the_default(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{field}={value!r}"):
        Settings(**{field: value})


@pytest.mark.parametrize("scale", ["smoke", "cpu"])
@pytest.mark.parametrize("base", TUNING.bases)
def test_every_point_of_every_system_is_a_model_of_the_promised_size(base: str, scale: str) -> None:
    whole, within = model_config(SCALES[scale], xmoe(8, 2)), {"smoke": 0.1, "cpu": 0.05}[scale]  # widths are coarse
    for number in range(sum(round_.size() for round_ in TUNING.rounds)):
        system = TUNING.trial(base, number)
        config = model_config(SCALES[scale], system)
        assert config_from_dict(config.layer(1).to_dict()) == config.layer(1)
        if base in ("xmoe_8", "fine_8", "mhmoe_8_compute", "mhmoe_8_parameters"):
            assert abs(config.parameters() / whole.parameters() - 1) < within
        if base in ("dense", "xmoe_8", "mhmoe_8_compute"):
            assert abs(config.flops_per_token() / whole.flops_per_token() - 1) < within


def test_the_tuned_system_is_the_best_point_of_the_full_runs_and_nothing_before_they_are_done(tmp_path: Path) -> None:
    tuned = SMALL.tuned("dense")
    empty = Records(SCALE, tmp_path)
    assert tuned.chosen(empty) is None
    assert [run.learning_rate for run in final_runs(SCALE, "english", tuned, [1], empty)] == [None]
    records = fill(tmp_path, SMALL, {"dense": [3.0, 5.0, 2.0, 4.0]})
    assert SMALL.best(SCALE, "dense", ONLY, records) == [2, 0]
    found = tuned.chosen(records)
    assert found is not None and found.name == "dense_tuned"
    assert SMALL.tuned("dense").chosen(Records(SCALE, tmp_path)) is found, "what is kept of it elsewhere is kept once"
    (run,) = final_runs(SCALE, "english", tuned, [1], records)
    assert run.learning_rate == points(4)[2].learning_rate and run.name == "english-dense_tuned-seed1"
    assert model_config(SCALE, run.system) == model_config(SCALE, SMALL.trial("dense", 2))


def test_the_published_settings_are_candidates_whatever_short_runs_say(tmp_path: Path) -> None:
    losses = {"dense": [3.0, 5.0, 2.0, 4.0, 1.0], "null": [3.0, 5.0, 2.0, 4.0, 6.0]}
    records = fill(tmp_path, SMALL, losses)
    assert SMALL.chosen(SCALE, "dense", records) == 4 and SMALL.chosen(SCALE, "null", records) == 2
    (run,) = final_runs(SCALE, "english", SMALL.tuned("dense"), [1], records)
    plain = SMALL.bases["dense"](SMALL.point(0))
    assert model_config(SCALE, run.system) == model_config(SCALE, plain) and run.learning_rate == 8e-3
    records.path(SMALL.full(SCALE, "dense", 4)[0]).unlink()
    assert SMALL.chosen(SCALE, "dense", Records(SCALE, tmp_path)) is None, "a candidate is not done"


def test_the_best_of_all_rounds_is_chosen_and_only_when_all_are_done(tmp_path: Path) -> None:
    first, second = (dataclasses.replace(round_, trials=4, kept=1) for round_ in TUNING.rounds)
    both = dataclasses.replace(TUNING, rounds=(first, second), settling=2)
    losses = {"dense": [3.0, 5.0, 2.0, 4.0, 3.0, 6.0, 7.0, 1.0, 8.0, 9.0], "null": [5.0] * 4 + [4.0] + [6.0] * 5}
    records = fill(tmp_path, both, losses)
    assert both.candidates(SCALE, "dense", first, records) == [2, 4]
    assert both.candidates(SCALE, "dense", second, records) == [7, 9]
    assert both.chosen(SCALE, "dense", records) == 7 and both.chosen(SCALE, "null", records) == 4
    records.path(both.short(SCALE, "dense", 6)).unlink()
    assert both.chosen(SCALE, "dense", Records(SCALE, tmp_path)) is None, "a short run of the second round is missing"
    before = dataclasses.replace(both, settling=1)
    assert before.chosen(SCALE, "dense", Records(SCALE, tmp_path)) == 2, "the second round settles nothing yet"


def test_on_other_text_the_committed_search_settles_what_no_search_there_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed, own = tmp_path / "committed", tmp_path / "own"
    monkeypatch.setattr(store, "RESULTS", committed)
    fill(committed, SMALL, {"dense": [3.0, 5.0, 2.0, 4.0]})
    tuned = SMALL.tuned("dense")
    (run,) = final_runs(SCALE, "english", tuned, [1], Records(SCALE, own))
    assert run.learning_rate == points(4)[2].learning_rate and not run.waits_for
    found = fill(own, SMALL, {"dense": [1.0, 5.0, 2.0, 4.0]})
    (run,) = final_runs(SCALE, "english", tuned, [1], found)
    assert run.learning_rate == points(4)[0].learning_rate


def test_the_page_says_what_was_tried_and_chosen(tmp_path: Path) -> None:
    fill(tmp_path / "results", SMALL, {"dense": [3.0, 5.0, 2.0, 4.0]})
    page = render(SMALL, (SCALE,), tmp_path, tmp_path / "results")[tmp_path / "tuning.md"]
    line = next(line for line in page.splitlines() if line.startswith("| Dense"))
    assert f"learning rate {points(4)[2].learning_rate}" in line and "|      4 |" in line
    assert "tuning_mini.png" in page and (tmp_path / "tuning_mini.png").stat().st_size > 10_000
    assert "What the factors are worth in round 1" in page


def test_the_sizes_of_a_layer_are_said_in_words() -> None:
    shared = mhmoe(8, "compute", 2, top_k=4, like_top_k=2).layer(CPU)
    assert shared is not None and isinstance(shared, MultiHeadConfig) and isinstance(shared.inner, SparseMoEConfig)
    count, width = shared.inner.experts.num_experts, shared.inner.experts.expert_dim
    assert _sizes(shared) == f"h = 2, {count} experts of width {width}, k = 4"
    own = Settings(norm="layer", per_head=True).layer(shared)
    assert _sizes(own) == f"h = 2, {round(count / 2)} experts for each head of width {width}, k = 4"
    assert (_sizes(dense_layer(CPU)), _sizes(null().layer(CPU))) == ("width 384", "-")


def test_the_expected_best_of_n_draws_is_that_of_counting_them_all() -> None:
    losses = np.log([7.0, 3.0, 5.0])
    found = {point.x: point.mean for point in _expected_best(list(losses))}
    pairs = [min(a, b) for a in (7, 3, 5) for b in (7, 3, 5)]
    assert found[1] == pytest.approx(5.0) and found[2] == pytest.approx(np.mean(pairs))
