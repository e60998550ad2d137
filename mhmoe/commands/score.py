"""`eval`: perplexity and bits per byte of any causal model on a text, and zero-shot scores by lm-eval.

As training's own evaluation does (training/evaluation.py), each document is read on its own after an end of text, and
each token is predicted once. Perplexity depends on the tokenizer, bits per byte does not.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

import numpy as np
import tyro
from tokenizers import Tokenizer
from tyro.conf import Positional

from mhmoe.commands.options import HELD_OUT_TOKENS, Name, Place, Whole
from mhmoe.commands.place import device_named
from mhmoe.commands.train import LISTING
from mhmoe.data.batches import EvaluationSet
from mhmoe.data.corpora import SPLITS, Document
from mhmoe.data.named import text_named
from mhmoe.data.packing import PackedDataset
from mhmoe.data.tokenizer import bare, losses, vocabulary_size
from mhmoe.fields import Count, check_value
from mhmoe.io import UserError, at_home
from mhmoe.model.checkpoints import load
from mhmoe.training.evaluation import evaluate as evaluate_model

ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Score a model: on a text, on tasks, or both.

    Attributes:
        model: a folder that `train` wrote, or any causal model of Hugging Face, by folder or name.
        data: a text, named as for train.
        split: of the text: test, valid, train, or all of it; test is what train did not read of the same text.
        length: tokens of a window; the model's context, at most 2048.
        max_tokens: of the split, at most, in whole documents; as many as train scores.
        tasks: names of lm-eval's tasks.
        include_path: a folder with further tasks for lm-eval.
        limit: the first so many items of each task.
        device: cpu, cuda, or auto for CUDA where there is any.
    """

    model: Annotated[Positional[str], tyro.conf.arg(metavar="MODEL")]
    data: Name = ""
    split: str = "test"
    length: Whole = None
    max_tokens: int = HELD_OUT_TOKENS
    tasks: tuple[str, ...] = ()
    include_path: Place = None
    limit: Whole = None
    device: str = "auto"


def evaluate(command: Evaluate) -> str:
    """What is printed. Raises UserError and ValueError."""
    if not command.data and not command.tasks:
        raise UserError("there is nothing to score; name a text by --data, or --tasks of lm-eval, or both")
    if command.split not in (known := (*SPLITS, ALL)):
        raise UserError(f"split={command.split!r} is not known; choose one of {', '.join(known)}")
    _check_read(command)
    check_value("max_tokens", command.max_tokens, Count)
    text = text_named(command.data, whole=command.split == ALL) if command.data else None
    model, tokenizer = load(command.model, device=str(device_named(command.device)))
    lines: list[str] = []
    if text is not None:
        settings: Any = model.config.get_text_config()  # of a model that reads pictures too, its part
        context = getattr(settings, "max_position_embeddings", None)
        usual = min(context or 2048, 2048)
        length = check_value("length", usual if command.length is None else command.length, Count)
        if context is not None and length > context:
            raise UserError(f"length={length} is more than {command.model} reads at once; give at most {context}")
        documents, lost = _documents(command, text, tokenizer, settings.vocab_size)
        found = evaluate_model(model, documents, length)
        lines.append(
            f"{command.model} on {command.data}, {command.split}: perplexity {found['perplexity']:.2f}, "
            f"{found['bits_per_byte']:.4f} bits per byte, {found['tokens']:,} tokens in {len(documents):,} documents"
        )
        lines += [line for line in (lost, _other_text(command, text)) if line]
    if command.tasks:
        lines.append(_zero_shot(command, model, tokenizer))
    return "\n".join(lines)


def _other_text(command: Evaluate, text: Any) -> str:
    """That `train` made the model of a text of other hashes, where what is held out of this one may be among it."""
    try:
        trained = _unnamed(json.loads((at_home(command.model) / LISTING).read_bytes())["data"]["corpus"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # no folder of `train`
        return ""
    read = text.fingerprint["corpus"] if isinstance(text, PackedDataset) else text.fingerprint()
    if command.split not in ("valid", "test") or trained == _unnamed(read):
        return ""
    return (
        f"{command.model} was trained on another version of {command.data}, or on another text: what is "
        f"{command.split} here may have been read by it"
    )


def _unnamed(corpus: Mapping[str, Any]) -> Any:
    """A fingerprint as JSON has it, without the names of files of one's own, which decide nothing."""
    own = {"files": sorted(corpus["files"].values())} if corpus["kind"] == "own" else {}
    return json.loads(json.dumps({**corpus, **own}))


def _check_read(command: Evaluate) -> None:
    """Raises UserError for an option that would change nothing."""
    usual = {field.name: field.default for field in fields(Evaluate)}
    for beside, names in {"data": ("split", "length", "max_tokens"), "tasks": ("include_path", "limit")}.items():
        for name in () if getattr(command, beside) else names:
            if (value := getattr(command, name)) != usual[name]:
                raise UserError(f"{name}={value} changes nothing without --{beside}; leave it out")


def _documents(command: Evaluate, text: Any, tokenizer: Any, vocab_size: int) -> tuple[EvaluationSet, str]:
    """The text in the model's tokens, and what these lose. Raises UserError if they are not the model's, or there are
    none."""
    inner = getattr(tokenizer, "backend_tokenizer", None)
    end = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if not isinstance(inner, Tokenizer) or end is None:
        raise UserError(f"{command.model} has a tokenizer without a tokenizer.json or without an end of text")
    if (size := vocabulary_size(inner)) > vocab_size:
        raise UserError(f"{command.model} has a tokenizer of {size} symbols, and a model of {vocab_size}; give its own")
    if isinstance(text, PackedDataset):
        if command.split not in ("valid", "test"):
            raise UserError(f"{command.data} is packed; it has --split valid or test")
        if text.tokenizer.get_vocab() != inner.get_vocab():
            raise UserError(f"{command.data} is packed in other symbols than {command.model} has; name the text itself")
        return getattr(text, command.split).first(command.max_tokens), ""
    splits = SPLITS if command.split == ALL else (command.split,)
    found = _encoded((d for split in splits for d in text.documents(split)), bare(inner), command.max_tokens)
    if not found:
        raise UserError(f"{command.data} has no text in {command.split}; name another --split")
    documents = EvaluationSet.of(
        [ids for _, ids in found],
        num_bytes=[len(document.text.encode()) for document, _ in found],
        ids=[document.id for document, _ in found],
        sources=[document.source for document, _ in found],
        end_of_text=end,
    )
    return documents, losses(bare(inner), (document.text for document, _ in found))


def _encoded(documents: Iterable[Document], tokenizer: Tokenizer, most: int) -> list[tuple[Document, list[int]]]:
    """Whole documents with together at most so many tokens, but at least one."""
    found: list[tuple[Document, list[int]]] = []
    for document in documents:
        ids = tokenizer.encode(document.text, add_special_tokens=False).ids
        most -= len(ids)
        if most < 0 and found:
            break
        if ids:
            found.append((document, ids))
    return found


def _zero_shot(command: Evaluate, model: Any, tokenizer: Any) -> str:
    """A line a task and measure, as lm-eval gives them."""
    try:
        from lm_eval.evaluator import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise UserError("--tasks needs the package lm-eval; run: pip install 'lm-eval[hf]'") from None
    path = None if command.include_path is None else str(command.include_path)
    harness: Any = HFLM
    try:
        found: Any = simple_evaluate(
            model=harness(pretrained=model, tokenizer=tokenizer, batch_size=16),
            tasks=list(command.tasks),
            task_manager=TaskManager(include_path=path),
            num_fewshot=0,
            limit=command.limit,
            bootstrap_iters=100,  # 0 would leave out the errors of plain means, too
        )
    except Exception as error:  # whatever the network, the hub and the files of tasks raise
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"tasks={', '.join(command.tasks)} cannot be scored: {reason}") from error
    answers = [sample["filtered_resps"] for of_task in found["samples"].values() for sample in of_task]
    if np.isnan([value for value in _flat(answers) if isinstance(value, float)]).any():
        raise UserError(  # lm-eval would take the first of such answers for the likeliest
            f"{command.model} gives no numbers for likelihoods (nan); was it trained, and in this precision?"
        )
    return "\n".join(harness_lines(found["results"]))


def _flat(values: Any) -> Iterator[Any]:
    """What stands in lists of lists."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def harness_lines(results: dict[str, dict[str, Any]]) -> list[str]:
    """One for each number that lm-eval gives, with its standard error where it gives one."""
    lines: list[str] = []
    for task, measures in results.items():
        for name, value in measures.items():
            measure, _, answer = name.partition(",")  # exact_match,strict-match: a measure, and which answer it is of
            if isinstance(value, float) and "stderr" not in name:
                error = measures.get(f"{measure}_stderr,{answer}")
                spread = f" ± {error:.4f}" if isinstance(error, float) else ""
                lines.append(
                    f"{task}: {name.removesuffix(',none')} {value:.4f}{spread}, {measures.get('sample_len', '')} items"
                )
    return lines
