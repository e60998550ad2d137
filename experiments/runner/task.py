"""What each task of a submitted job does: the same command again. It imports nothing of ours, so it begins at once."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

IN_ARRAY = "MHMOE_IN_ARRAY"  # environment variable: this command is one of several that share what failed


@dataclass(frozen=True)
class Task:
    """`python -m experiments line`. together: the tasks of the job meet, as torchrun's do, and share every run."""

    line: Sequence[str]
    threads: int
    together: bool

    def __call__(self, number: int = 0) -> None:
        """Raises CalledProcessError where the command fails, so that the job is shown as failed."""
        from submitit.helpers import TorchDistributedEnvironment

        if self.together:  # each finds its GPU by LOCAL_RANK, so all of them stay visible
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), IN_ARRAY: "1"}
        subprocess.run([sys.executable, "-m", "experiments", *self.line], env=environment, check=True)

    def checkpoint(self, *arguments: Any) -> Any:
        """What submitit queues again when the job must make room for others: runs go on where they were."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *arguments)
