"""`train`: from text of one's own to a model folder in Hugging Face's format.

OUT/config.json, model.safetensors, tokenizer.json, ...    what AutoModelForCausalLM and AutoTokenizer load
OUT/README.md, curve.png                                   the model card
OUT/training.jsonl                                         the log (mhmoe/training/watchers.py)
OUT/run.json                                               whose folder it is; scores and curve once it is finished
OUT/checkpoint.pt                                          until then: the same command goes on from it
"""

import json
import math
import os
import shlex
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import torch

from mhmoe.commands.card import Trained, write_card
from mhmoe.commands.options import HELD_OUT_TOKENS, Train
from mhmoe.commands.place import device_named, meet, processes
from mhmoe.commands.plan import check_multiplied, check_vocabulary, settings_of, sharding_of, tokens_read, training_of
from mhmoe.data.batches import Seed, TrainingBatches
from mhmoe.data.named import text_named
from mhmoe.data.own_text import OwnText
from mhmoe.data.packing import PackedDataset, PackingConfig, pack
from mhmoe.data.tokenizer import as_transformers, given_tokenizer, losses, vocabulary_size
from mhmoe.fields import Count, Range, check_value
from mhmoe.io import UserError, at_home, check_writable, read_json, write_atomically
from mhmoe.model.config import MHMoEConfig
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.config import identity
from mhmoe.training.evaluation import evaluate
from mhmoe.training.loop import check_length
from mhmoe.training.loop import train as train_model
from mhmoe.training.record import fingerprint, provenance, without_place
from mhmoe.training.record_checks import Summary
from mhmoe.training.seeding import seed_parameters
from mhmoe.training.sharded_checkpoint import remove_checkpoint, whole_model
from mhmoe.training.sharding import evaluating
from mhmoe.training.watch import Watch, Watcher
from mhmoe.training.watchers import JsonLines, TensorBoard, Tracker

LISTING = "run.json"
CACHE_VARIABLE = "MHMOE_CACHE"
TOLD = 0.01  # the share of test that the training text has, from which on it is told
_PROMPT, _SAMPLE = 12, 80  # tokens of the card's sample


def train(command: Train) -> Path | None:
    """What the command does. Returns the folder, None if the time was over before the end.

    Raises UserError and ValueError; what can be known before any work is said before.
    """
    deadline = math.inf if command.time_budget is None else time.monotonic() + command.time_budget
    if command.time_budget is not None:
        check_value("time_budget", command.time_budget, Annotated[float, Range(least=0)])
    check_value("seed", command.seed, Seed)
    check_value("log_every", command.log_every, Count)
    device = device_named(command.device)
    folder = at_home(command.out or f"{_name_of(command.data)}-{'own' if command.layer else command.system}")
    data = at_home(command.data)
    if data.is_dir() and folder.resolve().is_relative_to(data.resolve()):
        raise UserError(f"{folder} lies in --data {command.data}, and would be read as text; give another --out")
    earlier = _earlier(folder)
    text = text_named(command.data)
    given = given_tokenizer(command.tokenizer) if command.tokenizer else None
    vocab_size, end_of_text = check_vocabulary(command, text, given)
    settings = settings_of(command, vocab_size, end_of_text)
    training = training_of(command, device)
    check_multiplied(settings, training)
    check_length(settings, training)
    sharding = sharding_of(command, settings, training, processes())
    cache = Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "mhmoe")
    for writable in (folder, cache):
        check_writable(writable)
    watchers = _watchers(command, folder, settings)
    rank = meet(device)

    if not isinstance(text, PackedDataset):
        if isinstance(text, OwnText) and rank == 0 and (share := text.repeated()) >= TOLD:
            print(f"{share:.0%} of the test text are paragraphs that the training text has too", flush=True)
        if (
            given is not None
            and rank == 0
            and (lost := losses(given.tokenizer, (d.text for d in text.documents("test"))))
        ):
            print(lost, flush=True)
        packing = PackingConfig(
            vocab_size=vocab_size,
            max_train_tokens=tokens_read(command, training) + 1,
            max_valid_tokens=HELD_OUT_TOKENS,
            max_test_tokens=HELD_OUT_TOKENS,
        )
        text = pack(text, packing, cache / "packed", given)
    if given is None and rank == 0 and (symbols := vocabulary_size(text.tokenizer)) < vocab_size:
        print(f"the text gives {symbols:,} symbols of vocab_size={vocab_size:,}; the others are never read", flush=True)
    training = training_of(command, device, len(text.train))
    TrainingBatches(text.train, training.length, training.batch_sequences, command.seed)  # refuses too little text
    run = fingerprint(identity(settings, training, text.fingerprint, processes(), sharding), command.seed)
    if earlier and earlier.get("run") != run:
        raise UserError(f"{folder} holds another run (its options or its text differ); name another --out")
    if earlier.get("finished"):
        print(f"{folder} is finished already; name another --out to train anew")
        return folder
    system = command.system if command.layer is None else "own layer"
    told = {"run": run, "finished": False, "system": system, "seed": command.seed}
    told |= {"model": settings.identity(), "training": training.to_dict(), "data": text.fingerprint}
    if rank == 0:
        write_atomically(folder / LISTING, json.dumps(told, indent=1) + "\n")
        tokens = training.steps * training.tokens_per_step
        print(
            f"{folder}: {settings.parameters():,} parameters, {settings.active_parameters():,} of them a token; "
            f"{training.steps:,} steps, {tokens:,} tokens, {tokens / len(text.train):.1f} times {len(text.train):,}; "
            f"{device.type}, {training.precision}",
            flush=True,
        )

    with torch.device("meta" if sharding else "cpu"):  # a sharded one is made in its parts, by the loop
        model = MHMoEForCausalLM(settings)
    if sharding is None:
        seed_parameters(model, command.seed)
        model.to(device)  # pyright: ignore[reportArgumentType]  # transformers wraps it in an untyped decorator
    checkpoint = folder / "checkpoint.pt"
    with Watch(*watchers if rank == 0 else (), every=command.log_every) as watch:
        progress = train_model(
            model,
            text,
            training,
            seed=command.seed,
            checkpoint=checkpoint,
            deadline=deadline,
            label=folder.name,
            sharding=sharding,
            watch=watch,
        )
    if progress is None:
        if rank == 0:
            print("stopped at the time budget; the same command goes on from here")
        return None
    scores: dict[str, Summary] = {}
    if rank == 0 or sharding is not None:  # of which no process has the whole
        with evaluating(sharding, device):
            for split, documents in (("valid", text.valid), ("test", text.test)):
                found: Any = evaluate(model, documents, training.length)
                scores[split] = {name: value for name, value in found.items() if name != "documents"}  # pyright: ignore
    if rank:
        return folder
    whole = model if sharding is None else whole_model(checkpoint, settings)
    _save(whole, text, folder)
    about = provenance(_command(), device.type, torch.get_num_threads())
    about["versions"]["mhmoe"] = _own_version()
    trained = Trained(
        name=folder.name,
        system=system,
        model=settings,
        training=training,
        seed=command.seed,
        data=text.fingerprint,
        seconds=progress.seconds,
        curve=progress.curve,
        scores=scores,
        about=about,
        sample=_sample(whole, text, command.seed),
    )
    write_card(trained, folder)
    told |= {"finished": True, "scores": scores, "curve": progress.curve, "about": about}
    write_atomically(folder / LISTING, json.dumps(told, indent=1) + "\n")
    remove_checkpoint(checkpoint)
    test = scores["test"]
    print(
        f"{folder}: test perplexity {test['perplexity']:.2f}, {test['bits_per_byte']:.3f} bits per byte, "
        f"{progress.seconds:,.0f} s of training"
    )
    return folder


def _name_of(data: str) -> str:
    """The text's own, without what comes after a dot or names a revision."""
    return Path(data.partition("@")[0]).absolute().name.partition(".")[0] or "model"


def _earlier(folder: Path) -> dict[str, Any]:
    """What run.json says, {} if the folder is not there or empty, but for what another process of the run is writing.
    Raises UserError if it is something else's."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"cannot write in {folder}: it is a file; name another --out")
    if (folder / LISTING).is_file():
        advice = "remove the folder to train anew"
        if not isinstance(found := read_json(folder / LISTING, "run", advice), dict):
            raise UserError(f"run {folder / LISTING} is no JSON object; {advice}")
        return found
    if folder.is_dir() and any(not path.name.startswith(f".{LISTING}.") for path in folder.iterdir()):
        raise UserError(f"{folder} holds files that are no run's; name another --out")
    return {}


def _watchers(command: Train, folder: Path, settings: MHMoEConfig) -> list[Watcher]:
    """Raises UserError for one that is not installed."""
    watchers: list[Watcher] = [JsonLines(folder / "training.jsonl")]
    if command.tensorboard is not None:
        check_writable(at_home(command.tensorboard))
        watchers.append(TensorBoard(at_home(command.tensorboard)))
    projects = {"wandb": command.wandb, "trackio": command.trackio}
    for package, project in projects.items():
        if project:
            watchers.append(Tracker(package, project, folder.name, settings.identity()))
    return watchers


def _save(model: MHMoEForCausalLM, text: PackedDataset, folder: Path) -> None:
    try:
        model.save_pretrained(folder)
        length = model.config.max_position_embeddings
        as_transformers(text.tokenizer, text.end_of_text, length).save_pretrained(folder)
    except Exception as error:  # safetensors and tokenizers have exceptions of their own for a full disk
        raise UserError(f"cannot write {folder}: {error}; the same command writes it again") from None


def _sample(model: MHMoEForCausalLM, text: PackedDataset, seed: int) -> str:
    """How the model goes on from the beginning of a text that it has not read."""
    begin = [text.end_of_text, *text.test.tokens[: min(_PROMPT, int(text.test.offsets[1]))].tolist()]
    prompt = torch.tensor([begin], device=model.device)
    room = model.config.max_position_embeddings - len(begin)
    with torch.random.fork_rng(devices=[] if model.device.type == "cpu" else [model.device]):
        torch.manual_seed(seed)
        found = model.eval().generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=True,
            temperature=0.8,
            max_new_tokens=max(min(_SAMPLE, room), 1),
        )
    return text.tokenizer.decode(found[0].tolist(), skip_special_tokens=True)


def _own_version() -> str:
    try:
        return metadata.version("mhmoe")
    except metadata.PackageNotFoundError:  # a copied tree
        return "not installed"


def _command() -> str:
    """As Python was started, by which module or script there was, without the places of this machine."""
    return shlex.join(["python", *map(without_place, sys.orig_argv[1:])])
