"""One run: trained, evaluated, its model kept and its record written. What a killed process left is removed."""

import math
import os
import shlex
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm

from experiments.runner.again import SAME, deviation
from experiments.runner.manifest import write_listed
from experiments.runner.runs import Run, model_config, run_config, training_config
from experiments.runner.store import RESULTS, Records
from mhmoe.data.masking import Masking
from mhmoe.data.packing import PackedDataset
from mhmoe.data.tokenizer import as_transformers
from mhmoe.io import RunError, UserError, check_sealed_folder, check_writable, new_folder, remove_leftovers, seal_folder
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.model.masked import language_model
from mhmoe.training.allocator import peak_memory, reset_peak_memory
from mhmoe.training.config import Sharding
from mhmoe.training.evaluation import evaluate
from mhmoe.training.loop import train
from mhmoe.training.record import Record, fingerprint, provenance, without_place
from mhmoe.training.record_checks import Evaluation
from mhmoe.training.seeding import seed_parameters
from mhmoe.training.sharded_checkpoint import remove_checkpoint, whole_model
from mhmoe.training.sharding import evaluating

LISTING = "run.json"  # of a model's folder: whose it is, and the hash of every file


def execute(
    run: Run,
    text: PackedDataset,
    records: Records,
    cache: Path,
    *,
    deadline: float = math.inf,
    number: str = "",
    again: Record | None = None,
    sharding: Sharding | None = None,
) -> bool:
    """Train and measure one run, keep its model and write its record; False when the deadline came first.

    number: which one of how many it is, to be shown. again: the record of a run whose model is wanted once more;
    it stays, and the model must be that good. sharding: how the model lies on the processes, if not whole in each.
    """
    device = torch.device(run.scale.device)
    if device.type == "cuda" and dist.is_initialized():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    source = provenance(command(), device_name(device), torch.get_num_threads())
    processes = dist.get_world_size() if dist.is_initialized() else 1
    config, training = run_config(run, text.fingerprint, processes, sharding), training_config(run)
    identity = fingerprint(config, run.seed)
    model_settings = model_config(run.scale, run.system)
    with torch.device("meta" if sharding else "cpu"):  # a sharded one is made in its parts, by `train`
        model = language_model(model_settings)
    if (found := model.num_parameters()) != model_settings.parameters():
        raise RunError(
            f"{run.name}: the configs count {model_settings.parameters():,} parameters, the model has {found:,}; "
            "mend `parameters` of the config that is new"
        )
    if sharding is None:
        seed_parameters(model, run.seed)
        model.to(device)  # pyright: ignore[reportArgumentType]  # transformers wraps it in an untyped decorator
    reset_peak_memory(device)

    checkpoint = _checkpoint(cache, run.scale.name, run.name, identity)
    progress = train(
        model,
        text,
        training,
        seed=run.seed,
        checkpoint=checkpoint,
        deadline=deadline,
        label=f"{run.scale.name} {run.name} ({number})",
        sharding=sharding,
    )
    if progress is None:
        return False
    first = not dist.is_initialized() or dist.get_rank() == 0
    metrics = dict[str, Evaluation]()
    if first or sharding is not None:  # of which no process has the whole
        splits = {"valid": text.valid} | ({"test": text.test} if run.tests else {})
        with evaluating(sharding, device):
            masking = Masking.of(text, dict(training.masked)) if training.masked else None
            metrics = {n: evaluate(model, split, training.length, masking=masking) for n, split in splits.items()}
    if not first:
        return True
    record = Record(
        name=run.name,
        fingerprint=identity,
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
    if again is not None and abs(difference := deviation(record, again)) > SAME:
        raise RunError(f"{run.name} trained again differs by {difference:+.2%} from its record; run it anew")
    if run.tests:  # models that later measurements read
        whole = model if sharding is None else whole_model(checkpoint, model_settings)
        save_model(whole, text, model_folder(run, cache), identity)
    if again is None:
        write_listed(records.path(run), record.to_json(), records.folder)
    remove_checkpoint(checkpoint)
    shown = metrics.get("test", metrics["valid"])
    rate = record.tokens / record.wall_seconds
    tqdm.write(f"{run.scale.name} {run.name}: perplexity {shown['perplexity']:.2f}, {rate:,.0f} tokens/s")
    return True


def save_model(model: MHMoEForCausalLM, text: PackedDataset, folder: Path, identity: str) -> None:
    """Model and tokenizer as transformers reads them, in a folder that is whole or not there and says whose it is."""
    with new_folder(folder, replace=True) as new:
        try:
            model.save_pretrained(new)
            as_transformers(text.tokenizer).save_pretrained(new)
        except Exception as error:  # safetensors and tokenizers have exceptions of their own for a full disk
            raise UserError(f"cannot write {folder}: {error}; nothing of it was left behind") from None
        seal_folder(new, LISTING, {"run": identity})


def model_folder(run: Run, cache: Path) -> Path:
    return cache / "models" / run.scale.name / run.name


def _checkpoint(cache: Path, scale: str, name: str, identity: str) -> Path:
    return cache / "checkpoints" / scale / f"{name}-{identity}.pt"


def holds_model(folder: Path, record: Record) -> bool:
    """Whether the model of this record is there. One that is another run's, or damaged, is told of and not used."""
    if not folder.is_dir():
        return False
    try:
        check_sealed_folder(folder, LISTING, "it is trained again", run=record.fingerprint)
    except UserError as error:
        tqdm.write(f"{record.scale} {record.name}: {error}")
        return False
    return True


def clean(records: Records, cache: Path, text_cache: Path) -> None:
    """See that results can be written, and remove what killed processes left: half-written files, and the
    checkpoints of runs that are finished."""
    scale = records.scale.name
    models, checkpoints = cache / "models" / scale, cache / "checkpoints" / scale
    for folder in (cache, records.folder):
        check_writable(folder)
    for folder in (records.folder, text_cache / "packed", models, checkpoints):
        remove_leftovers(folder)
    for record in records.by_name.values():
        if "test" not in record.metrics or (models / record.name).is_dir():  # else it may be trained again just now
            remove_checkpoint(_checkpoint(cache, scale, record.name, record.fingerprint))


def command() -> str:
    """As it was given, without the places of this machine."""
    return shlex.join(["python", "-m", "experiments", *(without_place(a, RESULTS.parent) for a in sys.argv[1:])])


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
