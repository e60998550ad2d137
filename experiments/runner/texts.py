"""The text of a command, and the folder of results that belongs to it.

Committed records are of one text. Runs on any other get a folder of their own, results-own/<name>-<hash>, in
which learning rates are chosen anew; so no number of one text passes for one of another.
"""

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

from experiments.runner.measurements import folder_of_data
from experiments.runner.store import COMMITTED, RESULTS, Records, is_text_of
from experiments.scales import Scale
from mhmoe.data.corpora import LocalCorpus
from mhmoe.data.manifest import DATA_VARIABLE
from mhmoe.data.multilingual import MultilingualCorpus
from mhmoe.data.multimodal import MultimodalCorpus
from mhmoe.data.packing import PackedDataset, load_packed, pack
from mhmoe.io import UserError, sha256_of

CACHE = RESULTS.parent / ".cache"
OWN = RESULTS.parent / "results-own"


def load_dataset(scale: Scale, data: Path | None, cache: Path = CACHE) -> PackedDataset:
    """The scale's text, packed now or earlier. Raises UserError if the folder holds other text."""
    return _opened(scale, data) or pack(_corpus(scale, data, cache), scale.packing, cache / "packed")


def corpus_named(scale: Scale, data: Path | None) -> dict[str, Any] | None:
    """The fingerprint of the corpus that a command names; None if it names none.

    Files are hashed, nothing is packed. Raises UserError as `load_dataset`.
    """
    if (packed := _opened(scale, data)) is not None:
        return packed.fingerprint["corpus"]
    try:
        corpus = _corpus(scale, data, CACHE)
    except ValueError:  # a revision of the hub that is not pinned here
        return None
    if isinstance(corpus, LocalCorpus | MultilingualCorpus) and corpus.path is None:
        return None
    if isinstance(corpus, MultimodalCorpus) and corpus.reads_files and corpus.path is None:
        return None
    return json.loads(json.dumps(corpus.fingerprint()))  # as records have it


def results_of(scale: Scale, task: str, data: Path | None) -> tuple[Path, dict[str, Any] | None]:
    """Where runs on this text belong, and its fingerprint: the committed results if they are of it, else its own."""
    corpus = corpus_named(scale.for_task(task), data)
    if corpus is None or scale.name not in {committed.name for committed in COMMITTED}:
        return RESULTS, corpus
    records = [r for other in COMMITTED for r in Records(other).by_name.values() if r.task == task]
    known = [found for r in records if (found := r.config["data"]["corpus"])["kind"] == corpus["kind"]]
    if not known or corpus in known:
        return RESULTS, corpus
    mark = sha256_of(json.dumps(corpus, sort_keys=True).encode())[:8]
    place = (data or Path(os.environ.get(DATA_VARIABLE) or str(corpus["kind"]))).resolve()
    earlier = sorted(OWN.glob(f"*-{mark}"))  # the same text may lie in another place now
    return (earlier or [OWN / f"{re.sub(r'[^a-zA-Z0-9._-]', '_', place.name)}-{mark}"])[0], corpus


def work_folder(results: Path) -> Path:
    """Where models, checkpoints and locks of the runs of a folder of results are kept."""
    return CACHE if results.resolve() == RESULTS else results / ".cache"


def _opened(scale: Scale, data: Path | None) -> PackedDataset | None:
    """The packed folder that is named, if it is one."""
    if data is None or not (data / "pack.json").exists():
        return None
    packed = load_packed(data)
    if not is_text_of(scale, packed.fingerprint):
        raise UserError(
            f"{data} was not packed for scale {scale.name}; "
            f"run `python -m experiments pack FOLDER --scale {scale.name}`"
        )
    return packed


def _corpus(scale: Scale, data: Path | None, cache: Path) -> Any:
    """The scale's corpus, in the folder that is named or stands in for it, if it is read from one."""
    corpus = scale.corpus()
    if isinstance(corpus, MultimodalCorpus) and corpus.reads_files:
        return corpus.at(data or folder_of_data(None, scale, cache))
    if isinstance(corpus, LocalCorpus | MultilingualCorpus):
        return dataclasses.replace(corpus, path=data or corpus.path or folder_of_data(None, scale, cache))
    if data is not None:
        raise UserError(f"scale {scale.name} takes its text from {corpus.kind}, not from a folder; leave out --data")
    return corpus
