"""Records on disk: which runs are done, stale or missing, and the learning rates that follow.

A record is current when its fingerprint is the one that today's declaration gives, with the text's hashes
taken from the record itself: judging a record needs no data, only running does. Which text the scale
declares (source, files' names, packing) is compared all the same, and the text itself where one is named.
"""

import dataclasses
import os
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from experiments.runner.runs import Run, run_config, tuning_runs
from experiments.scales import SCALES, Scale
from experiments.system import System
from mhmoe.data.corpora import LocalCorpus
from mhmoe.data.synthetic import GeneratedCorpus
from mhmoe.io import UserError
from mhmoe.training.config import Sharding
from mhmoe.training.record import Record, fingerprint

RESULTS = Path(__file__).resolve().parents[2] / "results"
COMMITTED = tuple(scale for scale in SCALES.values() if scale.name != "smoke")
TIE = 0.01  # perplexities this close, relatively, count as equal
State = Literal["done", "stale", "missing"]


def is_text_of(scale: Scale, data: Mapping[str, Any]) -> bool:
    """Whether a packed text's fingerprint is of the text that the scale declares, whatever its hashes are."""
    if data.get("packing") != dataclasses.asdict(scale.packing):
        return False
    found = data.get("corpus", {})
    try:
        corpus = scale.corpus()
    except ValueError:  # the hub's revision is not pinned here, so that of the record stands
        return found.get("kind") == "hub"
    same = _declares(corpus, found)
    if isinstance(corpus, LocalCorpus):
        sets = {name.rpartition("-")[0] for name in found.get("files", ())}
        same = same and sets == {f"{corpus.subfolder}/{name}" for name in corpus.sets}
    return same and found.get("kind") == corpus.kind


def _declares(corpus: Any, found: Mapping[str, Any]) -> bool:
    """Whether a corpus has the values of its fields that a fingerprint names."""
    if isinstance(corpus, GeneratedCorpus):  # which is nothing but its fields
        return corpus.fingerprint() == found
    for name in (field.name for field in dataclasses.fields(corpus) if field.name in found):
        value = getattr(corpus, name)
        if dataclasses.is_dataclass(value):
            same = isinstance(found[name], Mapping) and _declares(value, found[name])
        else:
            same = found[name] == (list(value) if isinstance(value, tuple) else value)  # as JSON has it
        if not same:
            return False
    return True


_LOADED: dict[str, tuple[tuple[int, int, int], list[Record]]] = {}


def _loaded(file: str) -> list[Record]:
    """The records of a file, read and checked once as long as it stays as it is: checking takes its time."""
    stat = os.stat(file)
    state = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
    if file not in _LOADED or _LOADED[file][0] != state:
        path = Path(file)
        _LOADED[file] = (state, Record.load_lines(path) if path.suffix == ".jsonl" else [Record.load(path)])
    return _LOADED[file][1]


_DECLARED: dict[Hashable, str] = {}


def _declared(run: Run, record: Record, data: Mapping[str, Any]) -> str:
    """The fingerprint of a run on the text of a record, made once: every page asks for those of many others."""
    # Two systems are equal whatever their functions. What a record's fingerprint is made of has its text.
    key = run, run.system.layer, run.system.feed_forward, record.fingerprint
    if key not in _DECLARED:
        processes = record.config.get("processes", 1)
        sharding = Sharding(expert_parallel=record.config.get("head_parallel", 1))
        same = is_text_of(run.scale, data)
        _DECLARED[key] = fingerprint(run_config(run, data, processes, sharding), run.seed) if same else ""
    return _DECLARED[key]


class Records:
    """All records of a scale under results/runs, by name: a file each, or a line each in a file of several.

    corpora: of a task, the fingerprint of the corpus that its current records must be of; any for the others, as those
    of the search that settles what is trained on this one.
    """

    def __init__(
        self, scale: Scale, results: Path = RESULTS, corpora: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        self.scale, self.results, self.folder = scale, results, results / "runs" / scale.name
        self.corpora = corpora or {}
        self.reload()

    def reload(self) -> None:
        """Read them again. Raises UserError if a file is damaged or holds another run's record."""
        for _ in range(100):
            with suppress(FileNotFoundError):  # gathered into another file in between
                return self._read()
        raise UserError(f"{self.folder} has a record that cannot be found; remove links that lead nowhere")

    def _read(self) -> None:
        self.by_name: dict[str, Record] = {}
        self.settled: dict[Hashable, Any] = {}
        """What searches found in them, and those of other scales and results, kept until they are read again."""
        files = sorted(os.listdir(self.folder)) if self.folder.is_dir() else []
        several = [name for name in files if name.endswith(".jsonl")]
        for name in [*several, *(name for name in files if name.endswith(".json"))]:
            path = f"{self.folder}/{name}"
            is_single = name.endswith(".json")
            for record in _loaded(path):
                if record.scale != self.scale.name or (is_single and f"{record.name}.json" != name):
                    raise UserError(f"{path} is the record of {record.scale} {record.name}; move or remove it")
                other = self.by_name.get(record.name, record)
                again = is_single and record.fingerprint != other.fingerprint  # as its declaration has changed since
                if record is not other and record != other and not again:
                    raise UserError(f"{path} has another record of {record.name} than a file beside it; remove one")
                self.by_name[record.name] = record
        self._seeds: dict[str, set[int]] = {}
        for record in self.by_name.values():
            self._seeds.setdefault(record.name.removesuffix(f"-seed{record.seed}"), set()).add(record.seed)

    def at(self, scale: Scale) -> "Records":
        """Those of another scale, in the same results."""
        key = ("at", scale.name)
        if key not in self.settled:
            self.settled[key] = Records(scale, self.results)
        return self.settled[key]

    def committed(self) -> "Records | None":
        """Those of the repository's own results, at this scale; None if these are they."""
        if self.results == RESULTS:
            return None
        if "committed" not in self.settled:
            self.settled["committed"] = Records(self.scale, RESULTS)
        return self.settled["committed"]

    def path(self, run: Run) -> Path:
        return self.folder / f"{run.name}.json"

    def state(self, run: Run) -> State:
        """Whether the record that exists is the one this run would write."""
        record = self.by_name.get(run.name)
        if record is None:
            return "missing"
        return "done" if record.fingerprint == self.declared(run) else "stale"

    def pending_runs(self, runs: Iterable[Run]) -> list[Run]:
        """Those without a current record that can be done by now."""
        return [run for run in runs if self.state(run) != "done" and not run.waits_for]

    def check_text(self) -> None:
        """Raises UserError if there are records of another text than the one that is read, with which a page would mix
        new ones. At the smoke scale that is no mistake: its text is what is installed."""
        for task in self.corpora if self.scale.name != "smoke" else ():
            if other := self._of_other(task, lambda data, task=task: data.get("corpus") == self.corpora[task]):
                raise UserError(
                    f"{self.folder} has records of another text, such as {other}; name another folder by --results"
                )

    def of_other_text(self, run: Run, data: Mapping[str, Any]) -> str:
        """A record of the run's task, on a text that is declared as `data` is and differs; "" if there is none."""
        return self._of_other(run.task, lambda found: found == data)

    def _of_other(self, task: str, is_same: Callable[[Mapping[str, Any]], bool]) -> str:
        scale = self.scale.for_task(task)
        texts = {r.name: r.config.get("data", {}) for r in self.by_name.values() if r.task == task}
        return next((name for name, data in texts.items() if not is_same(data) and is_text_of(scale, data)), "")

    def declared(self, run: Run) -> str:
        """The fingerprint the run should have on the text, and by the number of processes where they matter, that its
        record names; "" if that is other text."""
        record = self.by_name.get(run.name)
        if record is None or run.learning_rate is None:
            return ""
        data = record.config.get("data", {})
        wanted = self.corpora.get(run.task, data.get("corpus"))
        return _declared(run, record, data) if wanted == data.get("corpus") else ""

    def chosen_learning_rate(self, task: str, system: System) -> float | None:
        """The smallest rate of the grid within TIE of the lowest perplexity on `valid`.

        Not simply the best one: the grid's runs are short, and short runs favour high rates. None while one
        of the grid's records is missing or stale.
        """
        if system.learning_rate is not None:
            return system.learning_rate
        if system.tuned_as is not None:
            rate = self.chosen_learning_rate(task, system.tuned_as)
            return None if rate is None else rate * system.lr_multiplier
        if not self.scale.learning_rates:
            return self.at(SCALES[self.scale.settled_at]).chosen_learning_rate(task, system)
        if len(self.scale.learning_rates) == 1:
            return self.scale.learning_rates[0]
        tried = list(tuning_runs(self.scale, task, system))
        if any(self.state(run) != "done" for run in tried):
            return None
        found = [
            (self.by_name[run.name].metrics["valid"]["perplexity"], rate)
            for run, rate in zip(tried, self.scale.learning_rates, strict=True)
        ]
        return min(rate for perplexity, rate in found if perplexity <= (1 + TIE) * min(found)[0])

    def seeds(self, task: str, system: System) -> list[int]:
        """The seeds of a system's final runs: those that the scale declares, and others that were run."""
        declared = system.final_seeds(self.scale, task, self.scale.for_task(task).seeds)
        run = self._seeds.get(f"{task}-{system.name}", set())
        more = dataclasses.replace(system, seeds=None)
        return declared + more.final_seeds(self.scale, task, sorted(run - set(declared)))
