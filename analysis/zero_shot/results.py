"""What scoring a model gives; apart from scoring.py, which takes seconds to import."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.results import Result
from analysis.zero_shot.answers import Scores
from analysis.zero_shot.tasks import TASKS


@dataclass(frozen=True, kw_only=True)
class TaskScores(Scores):
    """version: of lm-eval's task. cut, windowed: the shares of its requests that were."""

    version: float | str
    cut: float
    windowed: float


@dataclass(frozen=True, kw_only=True)
class Settings:
    num_fewshot: int
    limit: int | None
    max_length: int
    lm_eval: str


@dataclass(frozen=True, kw_only=True)
class ZeroShotScores(Result):
    """tasks: by name. tokens: that went through the model; seconds: that it took; None where they are not these
    tasks' alone."""

    tasks: dict[str, TaskScores]
    settings: Settings
    tokens: int | None
    seconds: float | None

    def conditions(self) -> dict[str, object]:
        return {**super().conditions(), "settings": self.settings}

    def of_tasks(self, names: Sequence[str]) -> "ZeroShotScores":
        """What scoring these tasks alone would have given, but for its costs."""
        assert self.data is not None
        files = {TASKS[name].file: self.data.files[TASKS[name].file] for name in names}
        return dataclasses.replace(
            self,
            tasks={name: self.tasks[name] for name in names},
            data=dataclasses.replace(self.data, files=files),
            tokens=None,
            seconds=None,
        )
