"""A queue handed to a launcher leaves what one process leaves; a job is asked for what its work needs."""

import dataclasses
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from experiments.runner.cluster import HERE, Cluster
from mhmoe.io import UserError
from tests.commands import Project
from tests.experiments.test_cli import lines_of_runs, new_project, numbers

SLURM = Cluster(launcher="slurm")
LOCAL = Cluster(launcher="local")


# ---- what is asked for ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cluster", "budget", "said"),
    [
        (Cluster(nodes=2), 60.0, "are for jobs; add --launcher slurm"),
        (dataclasses.replace(SLURM, nodes=0), 60.0, "nodes=0 is not allowed; it must be at least 1"),
        (dataclasses.replace(SLURM, gpus_per_node=-1), 60.0, "gpus_per_node=-1 is not allowed; it must be at least 0"),
        (
            dataclasses.replace(SLURM, sbatch=("partition",)),
            60.0,
            "sbatch='partition' is not allowed; write",
        ),
        (SLURM, None, "needs a limit; give --time-budget in seconds"),
        (SLURM, 60.0, "finds no sbatch"),
        (dataclasses.replace(LOCAL, nodes=2), 60.0, "nodes=2 is not allowed with launcher=local"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_launcher_cannot_do_is_said_before_anything_is_submitted(
    cluster: Cluster, budget: float | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=said):
        cluster.check(budget)
    HERE.check(None)
    LOCAL.check(60.0)


def test_an_array_asks_for_one_task_and_its_share_of_the_gpus_and_one_job_for_all() -> None:
    queue = Cluster(launcher="slurm", nodes=4, gpus_per_node=8, cpus_per_task=6, sbatch=("partition=big",))
    asked = queue.parameters(3600.0)
    assert (asked["nodes"], asked["tasks_per_node"], asked["gpus_per_node"], asked["cpus_per_task"]) == (1, 1, 1, 6)
    assert asked["timeout_min"] == 70 and asked["slurm_additional_parameters"] == {"partition": "big"}
    assert queue.nodes * queue.tasks == 32
    together = dataclasses.replace(queue, together=True).parameters(3600.0)
    assert (together["nodes"], together["tasks_per_node"], together["gpus_per_node"]) == (4, 8, 8)
    assert "gpus_per_node" not in Cluster(launcher="slurm", tasks_per_node=2).parameters(60.0)


# ---- done -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return new_project(tmp_path_factory.mktemp("cluster") / "project")


COMMAND = ("run", "table98", "--scale", "mini", "--data", "data")
JOBS = ("--tasks-per-node", "2", "--time-budget", "600", "--wait")


@pytest.fixture(scope="module")
def alone(project: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process leaves, without any launcher."""
    here = project.copied(tmp_path_factory.mktemp("alone") / "project")
    assert here.run(*COMMAND).code == 0
    return numbers(here, "mini")


def logs(project: Project) -> str:
    return "".join(path.read_text() for path in sorted(project.root.glob(".cache/jobs/*/*_log.out")))


def test_models_that_the_processes_cannot_share_out_are_refused_before_another_is_trained(project: Project) -> None:
    ended = project.run(*COMMAND, "--expert-parallel", "3", WORLD_SIZE="3")
    assert ended.code == 2 and not lines_of_runs(ended)
    said = "error: mhmoe_8_compute: expert_parallel=3 does not divide num_experts="
    assert ended.err.startswith(said) and ended.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--together",), ("--together", "--expert-parallel", "2")], ids=" ".join)
def test_jobs_of_a_launcher_share_the_queue_or_each_run_and_leave_the_same_numbers(
    project: Project, alone: dict[str, Any], options: tuple[str, ...], tmp_path: Path
) -> None:
    here = project.copied(tmp_path / "project")
    ended = here.run(*COMMAND, "--launcher", "local", *JOBS, *options)
    assert ended.code == 0, (ended, logs(here))
    assert ended.out.count("submitted one job of 2 tasks" if options else "submitted 2 jobs") == 1
    names = [line.split()[1].rstrip(":") for line in logs(here).splitlines() if ": perplexity " in line]
    assert sorted(names) == sorted(alone), "each run is done once"
    found = numbers(here, "mini")
    assert {name: found[name][0] for name in found} == {name: alone[name][0] for name in alone}
    for name in alone:
        ours, theirs = found[name][2]["valid"], alone[name][2]["valid"]
        assert ours["nll_per_token"] == pytest.approx(theirs["nll_per_token"], rel=1e-5)


@pytest.mark.slow
def test_slurm_takes_the_queue_and_its_jobs_leave_the_same_numbers(project: Project, alone: dict[str, Any]) -> None:
    """In a folder of the repository's cache, which its machines see too."""
    if shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True).returncode:
        pytest.skip("no SLURM answers")
    here = project.copied(Path.cwd() / ".cache" / f"cluster-test-{time.time_ns()}")
    try:
        ended = here.run(*COMMAND, "--launcher", "slurm", *JOBS)
        assert ended.code == 0 and "submitted 2 jobs" in ended.out, (ended, logs(here))
        assert numbers(here, "mini") == alone
        assert lines_of_runs(ended) == []
    finally:
        shutil.rmtree(here.root)
