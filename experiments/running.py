"""Runs what is missing: trains, measures, writes the record.

Several processes may work on the same experiment. An interrupted run goes on from its checkpoint.
"""

import dataclasses
import math
import os
import shlex
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm

from experiments.measurements import MEASUREMENTS, Subject, folder_of_data, measured, save
from experiments.processes import check_device, claimed, is_past, join_processes
from experiments.runs import (
    RESULTS,
    Records,
    is_text_of,
    model_config,
    not_done,
    plan,
    run_config,
    training_config,
)
from experiments.schema import Experiment, Run, Scale
from mhmoe.command_line import OutOfTime, stopped_at
from mhmoe.corpora import EmbeddedCorpus, HubCorpus
from mhmoe.data_folder import DATA_VARIABLE
from mhmoe.evaluation import evaluate
from mhmoe.files import check_sealed_folder, check_writable, new_folder, remove_leftovers, seal_folder
from mhmoe.generated import GeneratedCorpus
from mhmoe.language_model import MHMoEForCausalLM
from mhmoe.memory import peak_memory, reset_peak_memory
from mhmoe.packing import PackedText, load_packed, pack
from mhmoe.records import Record, UserError, fingerprint, provenance
from mhmoe.tokenization import as_transformers
from mhmoe.training import seed_parameters, train

SAME = 0.01  # relatively; other machines and kernels round otherwise, and training amplifies that
CACHE = Path(__file__).resolve().parent.parent / ".cache"
LISTING = "run.json"  # of a model's folder: whose it is, and the hash of every file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How to run, nothing of it in a fingerprint.

    seeds: of the final runs. data: a corpus folder or a packed one. deadline: of time.monotonic(). results,
    cache: where records go, and where packed text, checkpoints, locks and models are kept.
    """

    seeds: tuple[int, ...]
    data: Path | None = None
    deadline: float = math.inf
    results: Path = RESULTS
    cache: Path = CACHE


def text_of(scale: Scale, data: Path | None, cache: Path = CACHE) -> PackedText:
    """The scale's text, packed now or earlier. Raises UserError if the folder holds other text."""
    if data is not None and (data / "pack.json").exists():
        packed = load_packed(data)
        if not is_text_of(scale, packed.fingerprint):
            raise UserError(
                f"{data} was not packed for scale {scale.name}; "
                f"run `python -m experiments pack FOLDER --scale {scale.name}`"
            )
        return packed
    corpus = scale.corpus()
    if data is not None:
        if isinstance(corpus, EmbeddedCorpus | HubCorpus | GeneratedCorpus):
            raise UserError(
                f"scale {scale.name} takes its text from {corpus.kind}, not from a folder; leave out --data"
            )
        corpus = dataclasses.replace(corpus, path=data)
    return pack(corpus, scale.packing, cache / "packed")


def run_all(experiment: Experiment, scale: Scale, task: str, options: Options) -> bool:
    """Do what is missing of an experiment, runs and measurements; False when the deadline came first.

    A process of its own is stopped within seconds of the deadline, whatever it is doing. Processes that share a run
    stop together, after a step.
    """
    join_processes(scale)
    try:
        with stopped_at(math.inf if dist.is_initialized() else options.deadline):
            return run_missing(experiment, scale, task, options) and measure_missing(experiment, scale, task, options)
    except OutOfTime:
        return False


def run_missing(experiment: Experiment, scale: Scale, task: str, options: Options) -> bool:
    """Do every run that has no current record; False when the deadline came first."""
    records = Records(scale, options.results)
    text: PackedText | None = None
    join_processes(scale)
    _clean(records, options.cache)
    progressed = True
    while todo := not_done(experiment, scale, task, options.seeds, records):
        if not progressed:
            time.sleep(2)  # others work on what is left
        progressed = False
        for run in todo:
            if run.learning_rate is None:
                continue  # the tuning runs before it are not all done
            with claimed(run.name, scale, options.cache) as mine:
                records.reload()
                if not mine or records.state(run) == "done":
                    continue
                if text is None:
                    check_device(scale)
                    text = text_of(run.scale, options.data, options.cache)
                if not execute(run, text, records, options.deadline, options.cache):
                    return False
                progressed = True
            break  # the plan may have changed: a rate may be chosen now
        records.reload()
        if is_past(options.deadline):
            return not not_done(experiment, scale, task, options.seeds, records)
    return True


def measure_missing(experiment: Experiment, scale: Scale, task: str, options: Options) -> bool:
    """Measure what the experiment wants of its finished models; False when the deadline came first.

    A model that is not in the cache any more is trained again, and must come out as its record says. What needs
    a data folder is left out where there is none, and said so: a smaller machine may do the training alone.
    """
    records = Records(scale, options.results)
    data = folder_of_data(options.data)
    wanted = [MEASUREMENTS[name] for name in experiment.measurements]
    for measurement in wanted:
        if measurement.reads == "data" and data is None:
            tqdm.write(f"{measurement.name} is left out: it needs a data folder; set {DATA_VARIABLE}")
    wanted = [measurement for measurement in wanted if measurement.reads == "text" or data is not None]
    finals = [run for run in plan(experiment, scale, task, options.seeds, records) if run.tests] if wanted else []
    text: PackedText | None = None
    for run in finals:
        for measurement in wanted:
            record = records.by_name[run.name]
            with claimed(f"{measurement.name}-{run.name}", scale, options.cache) as mine:
                if not mine or measured(measurement, record, options.results) is not None:
                    continue
                if is_past(options.deadline):
                    return False
                text = text or text_of(run.scale, options.data, options.cache)
                folder = _model_folder(run, options.cache)
                if not _holds_model(folder, record) and not execute(
                    run, text, records, options.deadline, options.cache, again=record
                ):
                    return False
                if dist.is_initialized() and dist.get_rank() > 0:
                    continue
                source = provenance(_command(), _name(torch.device(scale.device)), torch.get_num_threads())
                subject = Subject(model=folder, seed=run.seed, text=text, data=data)
                values = measurement.measure(subject, measurement.settings_at(scale.name))
                save(measurement, record, values, source, options.results)
                tqdm.write(f"{scale.name} {run.name}: {measurement.name} measured")
    return True


def execute(
    run: Run,
    text: PackedText,
    records: Records,
    deadline: float,
    cache: Path = CACHE,
    again: Record | None = None,
) -> bool:
    """Train and measure one run, keep its model and write its record; False when the deadline came first.

    again: the record of a run whose model is wanted once more; it stays, and the model must be that good.
    """
    device = torch.device(run.scale.device)
    if device.type == "cuda" and dist.is_initialized():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    source = provenance(_command(), _name(device), torch.get_num_threads())
    processes = dist.get_world_size() if dist.is_initialized() else 1
    config, training = run_config(run, text.fingerprint, processes), training_config(run)
    mark = fingerprint(config, run.seed)
    model_settings = model_config(run.scale, run.system)
    model = MHMoEForCausalLM(model_settings)
    seed_parameters(model, run.seed)
    model.to(device)  # pyright: ignore[reportArgumentType]  # transformers wraps it in an untyped decorator
    reset_peak_memory(device)

    checkpoint = _checkpoint(cache, run.scale.name, run.name, mark)
    progress = train(
        model,
        text,
        training,
        seed=run.seed,
        checkpoint=checkpoint,
        deadline=deadline,
        label=f"{run.scale.name} {run.name}",
    )
    if progress is None:
        return False
    if dist.is_initialized() and dist.get_rank() > 0:
        return True
    splits = {"valid": text.valid} | ({"test": text.test} if run.tests else {})
    metrics = {name: evaluate(model, split, training.length) for name, split in splits.items()}
    record = Record(
        name=run.name,
        fingerprint=mark,
        scale=run.scale.name,
        task=run.task,
        system=run.system.name,
        seed=run.seed,
        config=config,
        provenance=source,
        steps=progress.step,
        tokens=progress.step * training.tokens_per_step,
        wall_seconds=progress.seconds,
        peak_memory_bytes=peak_memory(device),
        parameters=model_settings.parameters(),
        active_parameters=model_settings.active_parameters(),
        flops_per_token=model_settings.flops_per_token(training.length),
        metrics=metrics,
        curve=progress.curve,
    )
    if again is not None:
        ours, theirs = (r.metrics["test"]["perplexity"] for r in (record, again))
        if abs(ours / theirs - 1) > SAME:
            raise UserError(f"{run.name} trained again has perplexity {ours:.3f}, its record {theirs:.3f}; run it anew")
    if run.tests:  # models that later measurements read
        save_model(model, text, _model_folder(run, cache), mark)
    if again is None:
        record.save(records.path(run))
    checkpoint.unlink(missing_ok=True)
    shown = metrics.get("test", metrics["valid"])
    rate = record.tokens / record.wall_seconds
    tqdm.write(f"{run.scale.name} {run.name}: perplexity {shown['perplexity']:.2f}, {rate:,.0f} tokens/s")
    return True


def save_model(model: MHMoEForCausalLM, text: PackedText, folder: Path, mark: str) -> None:
    """Model and tokenizer as transformers reads them, in a folder that is whole or not there and says whose it is."""
    with new_folder(folder, replace=True) as new:
        try:
            model.save_pretrained(new)
            as_transformers(text.tokenizer).save_pretrained(new)
        except Exception as error:  # safetensors and tokenizers have exceptions of their own for a full disk
            raise UserError(f"cannot write {folder}: {error}; nothing of it was left behind") from None
        seal_folder(new, LISTING, {"run": mark})


def _model_folder(run: Run, cache: Path) -> Path:
    return cache / "models" / run.scale.name / run.name


def _checkpoint(cache: Path, scale: str, name: str, mark: str) -> Path:
    return cache / "checkpoints" / scale / f"{name}-{mark}.pt"


def _holds_model(folder: Path, record: Record) -> bool:
    """Whether the model of this record is there. One that is another run's, or damaged, is told of and not used."""
    if not folder.is_dir():
        return False
    try:
        check_sealed_folder(folder, LISTING, "it is trained again", run=record.fingerprint)
    except UserError as error:
        tqdm.write(f"{record.scale} {record.name}: {error}")
        return False
    return True


def _clean(records: Records, cache: Path) -> None:
    """See that results can be written, and remove what killed processes left: half-written files, and the
    checkpoints of runs that are finished."""
    scale = records.scale.name
    models, checkpoints = cache / "models" / scale, cache / "checkpoints" / scale
    for folder in (cache, records.folder):
        check_writable(folder)
    for folder in (records.folder, cache / "packed", models, checkpoints):
        remove_leftovers(folder)
    for record in records.by_name.values():
        if "test" not in record.metrics or (models / record.name).is_dir():  # else it may be trained again just now
            _checkpoint(cache, scale, record.name, record.fingerprint).unlink(missing_ok=True)


def _command() -> str:
    return shlex.join(["python", "-m", "experiments", *sys.argv[1:]])


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
