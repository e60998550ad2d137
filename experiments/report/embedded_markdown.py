"""Markdown as HTML that needs nothing from elsewhere: pictures inside, links to what is on the same page."""

import base64
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from markdown_it import MarkdownIt
from markdown_it.token import Token

_PARSER = MarkdownIt("commonmark", {"html": False}).enable("table")


def to_html(text: str, folder: Path, anchors: Collection[str], *, below: int = 0) -> str:
    """text: Markdown of a file in `folder`, whose pictures go into the page. anchors: names of files of Markdown,
    without the ending, that are on the page; a link to one leads there, one to any other file of the repository is
    text. below: so many levels are added to headings."""
    tokens = _PARSER.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{int(token.tag[1]) + below}"
        for inline in token.children or ():
            _embed(inline, folder, anchors)
    return _PARSER.renderer.render(tokens, _PARSER.options, {})


def inline_html(text: str, folder: Path, anchors: Collection[str]) -> str:
    """The same of a cell or a sentence, without a paragraph around it."""
    tokens = _PARSER.parseInline(text)
    for token in tokens[0].children or ():
        _embed(token, folder, anchors)
    return _PARSER.renderer.render(tokens, _PARSER.options, {})


def data_uri(picture: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"


def _embed(token: Token, folder: Path, anchors: Collection[str]) -> None:
    if token.type == "image":
        token.attrSet("src", data_uri(folder / str(token.attrGet("src"))))
        token.attrSet("loading", "lazy")
    if token.type == "link_open":
        target = str(token.attrGet("href"))
        name = PurePosixPath(target.partition("#")[0]).stem
        if name in anchors and not target.startswith(("http:", "https:")):
            token.attrSet("href", f"#{name}")
        elif not target.startswith(("http:", "https:", "#")):
            token.attrs.pop("href")
