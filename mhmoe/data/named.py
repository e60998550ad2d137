"""A text by its name on a command line: which kind of text stands at a path, or on the hub."""

import re

from mhmoe.data.corpora import Corpus, HubCorpus, LocalCorpus
from mhmoe.data.own_text import OwnText
from mhmoe.data.packing import LISTING, PackedDataset, load_packed
from mhmoe.io import UserError, at_home

_ON_HUB = re.compile(r"(?P<dataset>[\w.-]+/[\w.-]+)(?::(?P<name>[\w.-]+))?(?:@(?P<revision>\w+))?")


def text_named(data: str, *, whole: bool = False) -> Corpus | PackedDataset:
    """What `data` names: a packed folder, a folder of corpora (manifest.json), text of one's own (own_text.py; not
    divided if it is wanted `whole`), or a data set of the hub, `owner/name@revision` or `owner/name:config@revision`.

    Raises UserError if there is none, or a revision is not pinned.
    """
    path = at_home(data)
    if (path / LISTING).is_file():
        return load_packed(path)
    if (path / "manifest.json").is_file():
        return LocalCorpus(path=path)
    if (on_hub := _ON_HUB.fullmatch(data)) and not path.exists():
        if on_hub["revision"] is None:
            raise UserError(f"{data} is not there; if it is a data set of the hub, pin it: {data}@REVISION")
        return HubCorpus(dataset=on_hub["dataset"], name=on_hub["name"], revision=on_hub["revision"])
    return OwnText.of(path, whole=whole)
