"""Pages say what the current records say: a stale number or a missing one is never shown as a number."""

import csv
import dataclasses
import math
from pathlib import Path

import pytest

from analysis.claims.rules import Claim
from experiments.figure4_training_curves import PAGE as FIGURE4
from experiments.learning_rates import PAGE as LEARNING_RATES
from experiments.report.index import index_rows, write_index
from experiments.report.render import render, verdicts, write_ledger
from experiments.runner.page import Page
from experiments.runner.plan import final_runs
from experiments.runner.runs import tuning_runs
from experiments.runner.store import COMMITTED, Records
from experiments.scales import SMOKE, Scale
from experiments.table1_perplexity import PAGE as TABLE1
from experiments.table5_head_number import for_heads
from mhmoe.io import UserError
from mhmoe.layers.matching import in_words
from mhmoe.training.record import Record, fingerprint
from tests.forged import forged, save, worsened
from tests.mini import MINI, at_rate

THREE_SEEDS = dataclasses.replace(at_rate(MINI, 0.01), seeds=(1, 2, 3))
TUNED = dataclasses.replace(MINI, name="tuned")
OTHER_RATES = dataclasses.replace(MINI, name="other", learning_rates=(0.03, 0.05))
LABELS = {system.name: system.label for system in TABLE1.all_systems() if not system.settled_by}
LOSSES = {
    "dense": 4.6, "xmoe_8": 4.5, "xmoe_8_k4": 4.45, "mhmoe_8_parameters": 4.4, "mhmoe_8_compute": 4.48,
    "xmoe_32": 4.3, "mhmoe_32_parameters": 4.35, "mhmoe_32_compute": 4.31,
    "null": 4.9, "dense_as_mhmoe_8_parameters": 4.55, "fine_8_p4": 4.47, "xmoe_8_k2": 4.46,
}  # fmt: skip


def ledger(pages: list[Page], scales: list[Scale], results: Path, folder: Path | None = None) -> dict[Path, str]:
    """Of the records in `results`, into `folder` or beside them."""
    return write_ledger(verdicts(pages, scales, results), pages, folder or results)


def index(pages: list[Page], scales: list[Scale], results: Path) -> dict[Path, str]:
    return write_index(index_rows(pages, scales, results), pages, results)


def fill(results: Path, experiment: Page = TABLE1, scale: Scale = THREE_SEEDS) -> None:
    """A record for every run of an experiment, with the losses above."""
    for run in experiment.runs(scale, scale.seeds, Records(scale, results)):
        if run.waits_for:
            continue
        loss = LOSSES[run.system.name]
        save(forged(run, loss, curve=[6.0, loss + 0.2, loss]), results)


def record(results: Path, name: str, scale: Scale = THREE_SEEDS) -> Record:
    return Records(scale, results).by_name[name]


def remove(results: Path, system: str, scale: Scale = THREE_SEEDS) -> None:
    for path in (results / "runs" / scale.name).glob(f"english-{system}-seed*.json"):
        path.unlink()


def page_and_table(experiment: Page, results: Path, *scales: Scale) -> tuple[str, dict[str, dict[str, str]]]:
    """The Markdown, and the lines of the CSV by their system's label."""
    files = render(experiment, scales or (THREE_SEEDS,), results, results)
    (page,), (table,) = ([t for p, t in files.items() if p.suffix == kind] for kind in (".md", ".csv"))
    return page, {line["label"]: line for line in csv.DictReader(table.splitlines())}


def longer(scale: Scale) -> Scale:
    return dataclasses.replace(scale, training={**scale.training, "steps": 9})


# ---- tables ---------------------------------------------------------------------------------


def test_a_row_is_the_mean_of_the_final_runs_beside_the_paper(tmp_path):
    fill(tmp_path)
    page, table = page_and_table(TABLE1, tmp_path)
    assert list(table)[: len(LABELS)] == list(LABELS.values())  # in the order of the declaration
    assert {row["perplexity"] for row in list(table.values())[len(LABELS) :]} == {"not run"}  # no search, no tuned arm
    for name, label in LABELS.items():
        several = [record(tmp_path, f"english-{name}-seed{seed}").metrics["test"] for seed in (1, 2, 3)]
        mean = sum(metrics["perplexity"] for metrics in several) / 3
        assert float(table[label]["perplexity"]) == pytest.approx(mean, rel=1e-5)
        assert table[label]["seeds"] == "3" and f"{mean:.2f}" in page
    paper = {name: table[label]["paper"] for name, label in LABELS.items()}
    assert (paper["dense"], paper["xmoe_8"], paper["mhmoe_32_parameters"]) == ("16.23", "14.82", "10.28")
    assert paper["xmoe_8_k4"] == paper["mhmoe_8_compute"] == ""
    dense, reference = (float(table[LABELS[name]]["perplexity"]) for name in ("dense", "xmoe_8"))
    change = float(table["Dense"]["change"])
    assert change == pytest.approx(100 * (dense / reference - 1), rel=1e-4) and change > 5
    assert "128 tokens a run; seeds 1, 2, 3." in page


@pytest.mark.parametrize("experiment", [TABLE1, FIGURE4], ids=lambda page: page.slug)
def test_a_stale_run_is_shown_as_stale_and_a_missing_one_as_not_run(experiment, tmp_path):
    fill(tmp_path)
    _, before = page_and_table(experiment, tmp_path)
    shown = {system.label for system in experiment.all_systems()}
    run = shown & set(LABELS.values())  # a search settles the others, and there is none
    assert set(before) == shown and len(run) >= 8 and all(float(before[label]["perplexity"]) > 1 for label in run)
    for run in TABLE1.runs(longer(THREE_SEEDS), (1, 2, 3), Records(THREE_SEEDS, tmp_path)):
        if run.system.name == "mhmoe_8_compute":
            save(forged(run, 3.0), tmp_path)  # of another number of steps than is declared
    remove(tmp_path, "dense")
    page, after = page_and_table(experiment, tmp_path)
    declared = {"scale", "label", "system", "paper", "paper_change"}
    for name, said in (("mhmoe_8_compute", "stale"), ("dense", "not run")):
        assert {text for key, text in after[LABELS[name]].items() if key not in declared} == {said, ""}
        (line,) = [line for line in page.splitlines() if line.startswith(f"| {in_words(LABELS[name])} ")]
        assert f" {said} |" in line
    assert after[LABELS["xmoe_8"]] == before[LABELS["xmoe_8"]]


@pytest.mark.parametrize("experiment", [TABLE1, FIGURE4, LEARNING_RATES], ids=lambda page: page.slug)
def test_after_a_change_of_the_scale_no_number_of_before_is_left(experiment, tmp_path):
    fill(tmp_path, LEARNING_RATES, TUNED)
    fill(tmp_path, TABLE1, TUNED)
    files = render(experiment, [TUNED], tmp_path, tmp_path)
    assert not any("stale" in text for text in files.values())
    files = render(experiment, [longer(TUNED)], tmp_path, tmp_path)
    claims = ledger([TABLE1], [longer(TUNED)], tmp_path)
    losses = {f"{math.exp(loss):.1f}" for loss in LOSSES.values()}
    for text in files.values():
        assert text.count("stale") >= 8 and not any(loss in text for loss in losses)
    assert all(row.startswith("| not run |") for row in ledger_rows(claims[tmp_path / "claims.md"]))


def test_a_page_whose_records_are_all_stale_has_no_figure(tmp_path):
    experiment = for_heads((2,))  # of which no benchmark has timed anything either
    runs = experiment.runs(THREE_SEEDS, (1, 2, 3), Records(THREE_SEEDS, tmp_path))
    for run in runs:
        if not run.waits_for:
            save(forged(run), tmp_path)
    assert "![" in page_and_table(experiment, tmp_path)[0]
    page, table = page_and_table(experiment, tmp_path, longer(THREE_SEEDS))
    settled = {system.label for system in experiment.all_systems() if system.settled_by}
    said = {line["perplexity"] for label, line in table.items() if label not in settled}
    assert "![" not in page and said == {"stale"}


def test_a_seed_that_was_run_beside_the_declared_ones_counts(tmp_path):
    fill(tmp_path)
    run = next(r for r in TABLE1.runs(THREE_SEEDS, (9,), Records(THREE_SEEDS, tmp_path)) if r.tests)
    assert run.name == "english-dense-seed9"
    save(forged(run, 4.6), tmp_path)
    page, table = page_and_table(TABLE1, tmp_path)
    assert table["Dense"]["seeds"] == "4" and table[LABELS["xmoe_8"]]["seeds"] == "3"
    assert "seeds 1, 2, 3, 9, or the first n of them where n is less." in page


def test_a_scale_without_records_has_no_section(tmp_path):
    page, table = page_and_table(TABLE1, tmp_path)
    assert table == {} and "Not run at scale mini." in page
    fill(tmp_path)
    page, _ = page_and_table(TABLE1, tmp_path, TUNED, THREE_SEEDS)
    assert "## Scale mini" in page and "## Scale tuned" not in page


def test_the_smoke_scale_is_not_among_the_committed_ones():
    assert SMOKE not in COMMITTED and {scale.name for scale in COMMITTED} >= {"cpu", "gpu", "paper"}


def test_rendering_twice_gives_the_same_bytes(tmp_path):
    fill(tmp_path)
    fill(tmp_path, LEARNING_RATES, TUNED)
    found: list[dict[str, bytes]] = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        for experiment in (TABLE1, FIGURE4, LEARNING_RATES):
            render(experiment, [TUNED, THREE_SEEDS], folder, tmp_path)
        ledger([TABLE1, FIGURE4], [TUNED, THREE_SEEDS], tmp_path, folder)
        found.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert found[0] == found[1]
    kinds = [name.rpartition(".")[2] for name in found[0]]
    assert (kinds.count("md"), kinds.count("csv"), kinds.count("png")) == (4, 5, 1)


# ---- learning rates -------------------------------------------------------------------------


def test_the_sweep_shows_every_rate_and_what_was_chosen_at_each_scale(tmp_path):
    for scale in (TUNED, OTHER_RATES):
        for system in LEARNING_RATES.all_systems():
            for run, loss in zip(tuning_runs(scale, "english", system), (5.0, 4.0), strict=True):
                save(forged(run, loss), tmp_path)
    files = render(LEARNING_RATES, [TUNED, OTHER_RATES], tmp_path, tmp_path)
    page, table = (files[tmp_path / f"learning_rates{kind}"] for kind in (".md", ".csv"))
    for rate in ("0.01", "0.02", "0.03", "0.05"):
        assert f"rate {rate}" in page
    lines = list(csv.DictReader(table.splitlines()))
    assert len(lines) == 2 * 2 * len(LABELS)
    of_dense = [(x["scale"], x["rate"], x["chosen"]) for x in lines if x["label"] == "Dense"]
    assert of_dense == [
        ("tuned", "0.01", "no"),
        ("tuned", "0.02", "yes"),
        ("other", "0.03", "no"),
        ("other", "0.05", "yes"),
    ]
    perplexity = record(tmp_path, "english-dense-lr0.05-seed1000", OTHER_RATES).metrics["valid"]["perplexity"]
    written = next(x for x in lines if (x["label"], x["rate"]) == ("Dense", "0.05"))["perplexity"]
    assert float(written) == pytest.approx(perplexity, rel=1e-5)


def test_a_rate_that_was_not_tried_is_said_and_nothing_is_chosen(tmp_path):
    fill(tmp_path, LEARNING_RATES, TUNED)
    (tmp_path / "runs" / "tuned" / "english-dense-lr0.02-seed1000.json").unlink()
    files = render(LEARNING_RATES, [TUNED], tmp_path, tmp_path)
    line = next(x for x in files[tmp_path / "learning_rates.md"].splitlines() if x.startswith("| Dense"))
    assert [cell.strip() for cell in line.split("|")][3:5] == ["not run", "-"]


# ---- figure ---------------------------------------------------------------------------------


def test_the_points_of_the_figure_are_those_of_the_curves(tmp_path):
    fill(tmp_path)
    render(FIGURE4, [THREE_SEEDS], tmp_path, tmp_path)
    points = list(csv.DictReader((tmp_path / "figure4_training_curves_mini.csv").read_text().splitlines()))
    ends = {(p["panel"], p["label"]): float(p["perplexity_mean"]) for p in points if p["tokens"] == "128"}
    assert len(ends) == sum(len(panel) for panel in FIGURE4.panels.values()) == 9
    for title, panel in FIGURE4.panels.items():
        for label, system in panel.items():
            assert ends[title, label] == pytest.approx(math.exp(LOSSES[system.name]), rel=1e-5)


# ---- ledger ---------------------------------------------------------------------------------


def ledger_rows(text: str) -> list[str]:
    """Of the pages' tables, without those that stand above them once more."""
    sections = [part for part in text.split("\n## ")[1:] if not part.startswith("What could be judged")]
    lines = [line for part in sections for line in part.splitlines()]
    return [line for line in lines if line.startswith("| ") and not line.startswith("| verdict")]


def verdict(text: str, statement: str) -> str:
    (row,) = [row for row in ledger_rows(text) if f" | {in_words(statement)} |" in row]
    return row.split(" | ")[0].strip("| *")


def test_the_ledger_has_every_claim_and_a_changed_record_changes_its_verdict(tmp_path):
    fill(tmp_path)
    statement = f"{LABELS['mhmoe_8_parameters']} has lower perplexity than {LABELS['xmoe_8']}"
    path = tmp_path / "claims.md"
    before = ledger([TABLE1, FIGURE4], [THREE_SEEDS], tmp_path)[path]
    assert path.read_text() == before
    assert len(ledger_rows(before)) == len(TABLE1.claims) + len(FIGURE4.claims)
    assert verdict(before, statement) == "holds"
    assert verdict(before, f"{LABELS['mhmoe_32_parameters']} has lower perplexity than {LABELS['xmoe_32']}") == (
        "not reproduced at this scale"
    )

    for seed in (1, 2, 3):
        save(worsened(record(tmp_path, f"english-mhmoe_8_parameters-seed{seed}"), 1.1), tmp_path)
    worse = ledger([TABLE1, FIGURE4], [THREE_SEEDS], tmp_path)[path]
    assert verdict(worse, statement) == "not reproduced at this scale"

    save(worsened(record(tmp_path, "english-mhmoe_8_parameters-seed1"), 0.8), tmp_path)
    unclear = ledger([TABLE1, FIGURE4], [THREE_SEEDS], tmp_path)[path]
    assert verdict(unclear, statement) == "cannot tell"

    remove(tmp_path, "mhmoe_8_parameters")
    missing = ledger([TABLE1, FIGURE4], [THREE_SEEDS], tmp_path)[path]
    assert verdict(missing, statement) == "not run"


def test_a_stale_record_decides_nothing(tmp_path):
    fill(tmp_path)
    assert {v.n for v in verdicts([TABLE1], [THREE_SEEDS], tmp_path) if v.claim.arm == "published"} == {3}
    system, records = TABLE1.all_systems()[1], Records(THREE_SEEDS, tmp_path)
    (stale,) = final_runs(longer(THREE_SEEDS), "english", system, (3,), records)
    assert stale.name == "english-xmoe_8-seed3"
    save(forged(stale, 1.0), tmp_path)
    found = {
        (v.claim.better, v.claim.worse): v
        for v in verdicts([TABLE1], [THREE_SEEDS], tmp_path)
        if isinstance(v.claim, Claim)
    }
    assert found["mhmoe_8_parameters", "xmoe_8"].n == 2  # the two seeds that are left on both sides
    assert found["xmoe_32", "dense"].n == 3


def test_a_record_of_no_declared_run_decides_nothing(tmp_path):
    fill(tmp_path)
    before = verdicts([TABLE1], [THREE_SEEDS], tmp_path)
    system, records = TABLE1.all_systems()[1], Records(THREE_SEEDS, tmp_path)
    (run,) = final_runs(THREE_SEEDS, "english", system, (3,), records)
    assert run.name == "english-xmoe_8-seed3" and run.learning_rate is not None
    save(forged(dataclasses.replace(run, name=f"english-xmoe_8-lr{run.learning_rate:g}-seed3"), 1.0), tmp_path)
    (tmp_path / "runs" / THREE_SEEDS.name / "english-xmoe_8-seed3.json").unlink()
    after = {v.claim.statement: v.n for v in verdicts([TABLE1], [THREE_SEEDS], tmp_path)}
    less = {v.claim.statement: v.n - ("xmoe_8" in v.claim.systems) for v in before if v.n}
    assert {statement: after[statement] for statement in less} == less


def test_records_of_different_text_are_not_compared(tmp_path):
    fill(tmp_path)
    other = record(tmp_path, "english-xmoe_8-seed1")
    corpus = other.config["data"]["corpus"]
    corpus["files"] = dict.fromkeys(corpus["files"], "other hashes")
    save(dataclasses.replace(other, fingerprint=fingerprint(other.config, 1)), tmp_path)
    assert Records(THREE_SEEDS, tmp_path).by_name[other.name].config == other.config
    with pytest.raises(UserError, match="were trained on different data"):
        ledger([TABLE1], [THREE_SEEDS], tmp_path)


def test_seeds_of_different_text_have_no_mean(tmp_path):
    fill(tmp_path)
    for path in (tmp_path / "runs" / "mini").glob("*-seed3.json"):
        other = Record.load(path)
        corpus = other.config["data"]["corpus"]
        corpus["files"] = dict.fromkeys(corpus["files"], "other hashes")
        save(dataclasses.replace(other, fingerprint=fingerprint(other.config, 3)), tmp_path)
    for made in (render, lambda *given: ledger([given[0]], given[1], given[3])):
        with pytest.raises(UserError, match=r"-seed1 and english-.*-seed3 were trained on different data; move one"):
            made(TABLE1, (THREE_SEEDS,), tmp_path, tmp_path)


# ---- index ----------------------------------------------------------------------------------


def test_the_index_counts_runs_done_stale_and_missing(tmp_path):
    fill(tmp_path)
    remove(tmp_path, "dense")
    text = index([TABLE1, LEARNING_RATES], [THREE_SEEDS, TUNED], tmp_path)[tmp_path / "README.md"]
    (line,) = [line for line in text.splitlines() if "(table1_perplexity.md)" in line]
    done, waiting = 3 * (len(LABELS) - 1), len(TABLE1.runs(THREE_SEEDS, (1, 2, 3), Records(THREE_SEEDS, tmp_path)))
    waiting -= done
    assert [cell.strip() for cell in line.split("|")][2:6] == ["mini", str(done), "0", str(waiting)]
    text = index([TABLE1], [longer(THREE_SEEDS)], tmp_path)[tmp_path / "README.md"]
    (line,) = [line for line in text.splitlines() if "(table1_perplexity.md)" in line]
    assert [cell.strip() for cell in line.split("|")][2:6] == ["mini", "0", str(done), str(waiting)]
