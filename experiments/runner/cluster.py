"""The work in jobs of a cluster, through submitit: SLURM, or the same on this machine to try it out.

    queue       an array of nodes x tasks jobs of one task, which share out the runs
    together    one job, whose tasks meet as torchrun's do and share every run: copies, or --shard, --expert-parallel

The jobs of a queue share out the runs as processes of one machine do, by locks on files (processes.py): all must see
one folder, whose file system has flock.
"""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from experiments.runner.task import Task
from mhmoe.io import UserError

SPARE_MINUTES = 10  # of a job's limit beyond the time budget: to begin, and to measure what was just finished


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where the work is done.

    Attributes:
        launcher: here, or in jobs: slurm; local does on this machine what slurm does on others.
        nodes: machines.
        gpus_per_node: of each machine.
        tasks_per_node: processes on each machine; 0 for one a GPU.
        cpus_per_task: cores of each process.
        together: all processes share each run, as under torchrun (so with shard and expert_parallel); else each
            takes runs of its own.
        sbatch: further options of sbatch, such as partition=long account=ours.
        wait: until the jobs have ended.
    """

    launcher: Literal["here", "slurm", "local"] = "here"
    nodes: int = 1
    gpus_per_node: int = 0
    tasks_per_node: int = 0
    cpus_per_task: int = 1
    together: bool = False
    sbatch: tuple[str, ...] = ()
    wait: bool = False

    @property
    def tasks(self) -> int:
        """Of each machine."""
        return self.tasks_per_node or max(self.gpus_per_node, 1)

    def check(self, time_budget: float | None) -> None:
        """Raises UserError on what cannot be meant, or cannot be done from this machine."""
        if self.launcher == "here":
            if self != HERE:
                raise UserError("nodes, GPUs, tasks and options of sbatch are for jobs; add --launcher slurm")
            return
        for name, least in (("nodes", 1), ("gpus_per_node", 0), ("tasks_per_node", 0), ("cpus_per_task", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)} is not allowed; it must be at least {least}")
        if wrong := [option for option in self.sbatch if not all(option.partition("=")[::2])]:
            raise UserError(f"sbatch={wrong[0]!r} is not allowed; write name=value, such as partition=long")
        if time_budget is None:
            raise UserError(
                f"launcher={self.launcher} needs a limit; give --time-budget in seconds, after which each job stops "
                "with its checkpoints (the same command goes on)"
            )
        if find_spec("submitit") is None:
            raise UserError(f"launcher={self.launcher} needs the package submitit; run pip install submitit")
        if self.launcher == "slurm" and shutil.which("sbatch") is None:
            raise UserError("launcher=slurm finds no sbatch; start it on a machine from which SLURM takes jobs")
        if self.launcher == "local" and self.nodes > 1:
            raise UserError(f"nodes={self.nodes} is not allowed with launcher=local; leave it out")

    def parameters(self, time_budget: float) -> dict[str, Any]:
        """Of submitit's executor."""
        each = {"nodes": self.nodes, "tasks_per_node": self.tasks, "gpus_per_node": self.gpus_per_node}
        if not self.together:
            each = {"nodes": 1, "tasks_per_node": 1, "gpus_per_node": -(-self.gpus_per_node // self.tasks)}
        if not each["gpus_per_node"]:  # some clusters refuse to be asked for none
            del each["gpus_per_node"]
        each |= {"cpus_per_task": self.cpus_per_task, "timeout_min": math.ceil(time_budget / 60) + SPARE_MINUTES}
        options = dict(option.split("=", 1) for option in self.sbatch)
        return {"name": "mhmoe", **each, "slurm_additional_parameters": options}

    def submit(self, line: Sequence[str], time_budget: float, folder: Path) -> int:
        """Hand in `python -m experiments line`, tell where it went, and return the exit code."""
        from submitit import AutoExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError

        executor = AutoExecutor(folder=folder / "%j", cluster=self.launcher)
        executor.update_parameters(**self.parameters(time_budget))
        task = Task([*line, "--time-budget", str(time_budget)], self.cpus_per_task, self.together)
        try:
            if self.together:
                jobs = [executor.submit(task)]
            else:
                jobs = executor.map_array(task, range(self.nodes * self.tasks))
        except (FailedJobError, FailedSubmissionError) as error:
            raise UserError(f"sbatch refuses the job: {' '.join(str(error).split())}") from None
        what = f"one job of {self.nodes * self.tasks} tasks" if self.together else f"{len(jobs)} jobs"
        print(f"submitted {what}: {jobs[0].job_id} to {jobs[-1].job_id}; what they say is in {folder}")
        failed = list[str]()
        for job in jobs if self.wait else ():
            try:
                job.results()
            except (FailedJobError, UncompletedJobError):
                failed.append(job.job_id)
        if failed:
            print(f"jobs that failed: {', '.join(failed)}")
        return 1 if failed else 0


HERE = Cluster()
