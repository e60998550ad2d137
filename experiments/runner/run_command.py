"""What `python -m experiments run` does with its arguments: check them, find the records, work, tell."""

import contextlib
import dataclasses
import difflib
import fnmatch
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from experiments.runner.again import code_here, comparison
from experiments.runner.bundle import Bundle, check_bundle
from experiments.runner.cluster import HERE, Cluster
from experiments.runner.dry_run import cost_table, gpu_table
from experiments.runner.failures import Failures
from experiments.runner.gather import gather
from experiments.runner.gpus import GPUs
from experiments.runner.jobs import is_spoken_for, run_in_jobs, useful_jobs
from experiments.runner.launch import Options, check_data, planned_runs, run_all, unmeasured
from experiments.runner.page import Page
from experiments.runner.processes import check_device
from experiments.runner.runs import Run, model_config
from experiments.runner.store import COMMITTED, RESULTS, Records
from experiments.runner.texts import CACHE, OWN, results_of, work_folder
from experiments.scales import Scale
from mhmoe.cli import stopped_at
from mhmoe.io import UserError, check_writable
from mhmoe.model.masked import language_model
from mhmoe.training.config import Sharding
from mhmoe.training.sharding import check_layout


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Of `run` and of `run-all`. slugs: the tables and figures, as they were named. started: from when
    `time_budget` counts (time.monotonic).

    Attributes:
        scale: smoke, cpu, long, gpu or paper.
        task: of a table that exists for several, such as table1; else its own, or English.
        seeds: of the final runs; the scale's own if none are given.
        systems: only these, such as xmoe_8 or 'mhmoe_*', by the names that --dry-run lists; all if none are given.
        data: a folder of corpora, or one made by `pack`; else MHMOE_DATA, where the scale reads local text.
        results: the folder for the records; else results, or one in results-own for text that those are not of.
        jobs: processes that share the runs and the cores.
        heads: for table5, these numbers of heads instead of the paper's.
        device: cpu, cuda, or auto for whichever there is; else the scale's own. Records say which it was.
        time_budget: seconds after which to stop with a checkpoint.
        train_only: measure nothing, which needs no folder of questions; the same command without it goes on.
        again: train the runs that have current records once more, at their learning rates, in a folder of their own,
            and compare; exit code 1 if one differs by more than is to be expected.
        shard: under torchrun or --together, no process has a whole model (FSDP2); else each has a copy (DDP).
        expert_parallel: likewise, so many processes share out the experts of each layer; shards all else, too.
        dry_run: print what would be run and what it would cost.
        gpus: for dry_run, such as 8xH100 or 32xV100: memory of each, tokens a second and days there.
        out: a tar file for the new records and measurements, to be carried elsewhere and taken in by `register`.
        cluster: where it is done.
    """

    slugs: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()
    started: Annotated[float, tyro.conf.Suppress] = 0.0
    scale: str = "cpu"
    task: str = ""
    seeds: tuple[int, ...] = ()
    systems: tuple[str, ...] = ()
    data: Path | None = None
    results: Path | None = None
    jobs: int = 1
    heads: tuple[int, ...] = ()
    device: str = ""
    time_budget: float | None = None
    train_only: bool = False
    again: bool = False
    shard: bool = False
    expert_parallel: int = 1
    dry_run: bool = False
    gpus: str = ""
    out: Path | None = None
    cluster: Annotated[Cluster, tyro.conf.arg(name="")] = HERE

    @property
    def sharding(self) -> Sharding | None:
        return Sharding(expert_parallel=self.expert_parallel) if self.shard or self.expert_parallel != 1 else None

    def check(self) -> None:
        """Raises UserError on a value that cannot be meant."""
        if self.jobs < 1:
            raise UserError(f"jobs={self.jobs} is not allowed; it must be at least 1")
        if wrong := [seed for seed in self.seeds if seed < 0]:
            raise UserError(f"seeds={wrong[0]} is not allowed; a seed is 0 or more")
        if twice := [seed for seed in self.seeds if self.seeds.count(seed) > 1]:
            raise UserError(f"seeds={twice[0]} is given twice; give each seed once")
        if self.time_budget is not None and not 0 < self.time_budget < math.inf:
            raise UserError(f"time_budget={self.time_budget} is not allowed; give seconds above 0, or leave it out")
        several = self.cluster.together or int(os.environ.get("WORLD_SIZE", "1")) > 1
        if several and self.jobs > 1:
            raise UserError(f"jobs={self.jobs} would share out runs that processes share; leave it at 1")
        self.cluster.check(self.time_budget)
        if self.sharding is not None and not several:
            raise UserError(
                "--shard and --expert-parallel are for several processes; start them by --launcher slurm --together, "
                "or torchrun --standalone --nproc-per-node N -m experiments run ..., N a number"
            )

    def for_jobs(self, page: Page, scale: Scale, options: Options) -> list[str]:
        """The command line of one of several processes that do the same."""
        line = ["run-all" if len(page.parts) > 1 else "run", *self.slugs, "--scale", scale.name]
        line += ["--seeds", *map(str, options.seeds), "--task", page.task]
        line += ["--systems", *self.systems] if self.systems else []
        line += ["--heads", *map(str, self.heads)] if self.heads else []
        line += [] if self.data is None else ["--data", str(self.data)]
        line += [] if (self.results, options.results) == (None, RESULTS) else ["--results", str(options.results)]
        line += ["--device", self.device] if self.device else []
        line += [flag for flag, given in (("--train-only", self.train_only), ("--again", self.again)) if given]
        if self.sharding is not None:
            line += ["--shard", "--expert-parallel", str(self.sharding.expert_parallel)]
        left = options.deadline - time.monotonic()
        return line if left == math.inf else [*line, "--time-budget", str(max(left, 1e-3))]


def execute_command(page: Page, scale: Scale, arguments: Arguments) -> int:
    """Returns the exit code. Raises UserError before the work where that is possible."""
    dry_run, out = arguments.dry_run, arguments.out
    if out is not None and arguments.cluster.launcher != "here" and not arguments.cluster.wait:
        raise UserError(f"out={out} is written when the runs are done; add --wait, or leave it out")
    if arguments.gpus and not dry_run:
        raise UserError(f"gpus={arguments.gpus} is of an estimate; add --dry-run, or leave it out")
    if out is not None:
        check_bundle(out)
    options = _options(page, scale, arguments)
    records = options.records(scale)
    _check_systems(page, scale, options, records)
    runs = planned_runs(page, scale, options, records)
    if arguments.again and not runs:
        raise UserError(f"no run of {page.slug} at scale {scale.name} has a current record to be repeated")
    todo = records.pending_runs(runs)
    if arguments.results is not None or options.results != RESULTS:
        records.check_text()
    to_measure = unmeasured(page, scale, options, records)
    code = 0
    if dry_run:
        print(cost_table(runs, records, options.elsewhere(scale)))
        if arguments.gpus:
            print(gpu_table(runs, [GPUs.parse(arguments.gpus)]))
    elif todo or to_measure:
        _check_layouts(todo, arguments)
        check_data(page, scale, to_measure, options)
        for folder in (options.results, options.cache, CACHE):
            check_writable(folder)
        with _collected(page, scale, options, out):
            code = _work(page, scale, options, arguments, len(todo + to_measure))
    else:
        with _collected(page, scale, options, out):
            current = [run for run in runs if not run.waits_for]
            if not arguments.again and (current or not runs):
                print(_nothing_to_run(page, current, records))
    if not is_spoken_for():
        if not dry_run:
            runs = planned_runs(page, scale, options, options.records(scale))
        for slug, waiting in Counter(run.waits_for for run in runs if run.waits_for).items():
            print(f"{waiting} runs wait for what another page settles: python -m experiments run {slug}")
        tuned = next((system.settled_by for system in page.all_systems() if system.settled_by), "")
        if tuned and todo and options.results != RESULTS and not arguments.again:
            print(f"tuned systems take what `run {tuned}` found on this text, or else on the committed one")
    if arguments.again and not dry_run and not is_spoken_for() and code == 0:
        code = _compare(runs, options.records(scale), Records(scale))
    return code


@contextlib.contextmanager
def _collected(page: Page, scale: Scale, options: Options, out: Path | None) -> Iterator[None]:
    """Afterwards, also where a run has failed or was interrupted, what is new is in files of several and in `out`."""
    bundle = None if out is None else Bundle.begun(options.results, out, options.cache)
    try:
        yield
    finally:
        if not is_spoken_for():
            gather(options.records(scale), page.gathered(scale))
        if not is_spoken_for() and bundle is not None:
            print(f"{out}: {bundle.write()} new records and measurements")


def _options(page: Page, scale: Scale, arguments: Arguments) -> Options:
    results, corpus = results_of(scale, page.task, arguments.data)
    if own := [slug for slug in arguments.slugs if slug.endswith(".py")]:  # pages of the user's own
        if len(page.parts) > 1 and arguments.results is None:
            raise UserError(f"{own[0]} is a page of your own; run it alone, or name a folder by --results")
        if arguments.again:
            raise UserError(f"--again repeats committed runs, and {own[0]}, a page of your own, has none; leave it out")
        results = OWN / page.slug
    if arguments.again:
        if results != RESULTS:
            raise UserError("--again repeats the committed runs, and those are of other text; leave it out")
        results = OWN / f"again-{code_here()}-{scale.device}"
    results = (arguments.results or results).absolute()
    budget = arguments.time_budget
    return Options(
        seeds=arguments.seeds or tuple(scale.for_task(page.task).seeds),
        systems=arguments.systems,
        data=arguments.data,
        deadline=math.inf if budget is None else arguments.started + budget,
        results=results,
        cache=work_folder(results),
        packed=CACHE,
        corpora={} if corpus is None else {page.task: corpus},
        again=RESULTS if arguments.again else None,
        train_only=arguments.train_only,
        sharding=arguments.sharding,
    )


def _check_systems(page: Page, scale: Scale, options: Options, records: Records) -> None:
    """Raises UserError on a pattern that no system of the page is named like."""
    names = sorted({run.system.name for run in page.runs(scale, options.seeds, records)} if options.systems else ())
    for pattern in options.systems:
        if not fnmatch.filter(names, pattern):
            like = ", ".join(difflib.get_close_matches(pattern, names, cutoff=0.0)) or "none"
            raise UserError(f"systems={pattern} is none of {page.slug}'s {len(names)} systems; the nearest: {like}")


def _check_layouts(todo: Sequence[Run], arguments: Arguments) -> None:
    """Raises UserError where the processes cannot share out one of the models, before another is trained."""
    sharding, cluster = arguments.sharding, arguments.cluster
    if sharding is None:
        return
    processes = cluster.nodes * cluster.tasks if cluster.together else int(os.environ["WORLD_SIZE"])
    for run in {run.system.name: run for run in todo if not run.waits_for}.values():
        with torch.device("meta"):  # takes no memory
            model = language_model(model_config(run.scale, run.system))
        try:
            check_layout(model, sharding, processes)
        except UserError as error:
            raise UserError(f"{run.system.name}: {error}") from None


def _work(page: Page, scale: Scale, options: Options, arguments: Arguments, tasks: int) -> int:
    """Returns the exit code. tasks: how many runs and measurements there are."""
    if not is_spoken_for():
        Failures.new(scale, options.cache)
    if arguments.cluster.launcher != "here":
        return _submit(page, scale, options, arguments)
    jobs = useful_jobs(arguments.jobs, tasks)
    if options.results != RESULTS and not is_spoken_for():
        named = arguments.results or arguments.again or options.results == OWN / page.slug
        why = "" if named else "; the committed ones are of other text"
        print(f"records go to {_shown(options.results)}{why}")
    if jobs > 1:
        check_device(scale)  # here, so that it is said before the jobs start; the text is packed once, too
        with stopped_at(options.deadline):
            options.text(scale.for_task(page.task))
        return run_in_jobs(jobs, arguments.for_jobs(page, scale, options))
    if not run_all(page, scale, options):
        print("stopped at the time budget; the same command goes on from here")
    return 0


def _submit(page: Page, scale: Scale, options: Options, arguments: Arguments) -> int:
    """The same command in jobs, with the text packed here, so that they find it."""
    assert arguments.time_budget is not None
    options.text(scale.for_task(page.task))
    line = arguments.for_jobs(page, scale, dataclasses.replace(options, deadline=math.inf))
    line += ["--jobs", str(arguments.jobs)] if arguments.jobs > 1 else []
    return arguments.cluster.submit(line, arguments.time_budget, options.cache / "jobs")


def _compare(runs: Sequence[Run], ours: Records, theirs: Records) -> int:
    if ours.pending_runs(runs):
        return 0  # the time budget came first, and was told of
    table, same = comparison(runs, ours, theirs)
    print(table)
    return 0 if same else 1


def _nothing_to_run(page: Page, runs: Sequence[Run], records: Records) -> str:
    """Whose records are current, and how to train all the same."""
    if not runs:
        return f"nothing to run: {page.slug} trains nothing, or nothing with these seeds"
    found = [records.by_name[run.name].provenance for run in runs]
    devices = sorted({str(source.get("device", "unknown")) for source in found})
    commits = sorted({str(source.get("commit", "unknown"))[:7] for source in found})
    where = f"device {', '.join(devices)}; commit {', '.join(commits[:3])}"
    where += f" and {len(commits) - 3} others" if len(commits) > 3 else ""
    if records.results == RESULTS and records.scale.name in {scale.name for scale in COMMITTED}:
        return (
            f"nothing to run: all {len(runs)} records are current. They are those of this repository ({where}); "
            "to train anew on this machine and compare, add --again (make: AGAIN=1)"
        )
    return f"nothing to run: all {len(runs)} records in {_shown(records.folder)} are current ({where})"


def _shown(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(RESULTS.parent) else str(path)
