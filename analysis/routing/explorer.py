"""A page at this machine's loopback address: type a text, pick a checkpoint, or two, and see where its sub-tokens go.

Nobody else can reach it: it listens at 127.0.0.1 alone, and answers only who asks it by that name (else a page of
somewhere else could, by a name of its own that leads here).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tokenizers import Tokenizer

from analysis.routing.routing_page import Panel, page, panel
from analysis.routing.text import load_checkpoint, routing_blocks
from mhmoe.commands.routed import check_unicode, routed_tokens
from mhmoe.io import UserError
from mhmoe.model.language_model import MHMoEForCausalLM

HOST = "127.0.0.1"
TITLE = "Where a text's sub-tokens go"
LONGEST = 5_000  # characters: what a page can show, and an address hold
SAMPLE = "The bank of the river was steep, and the bank in town was closed."


def checkpoints(folder: Path) -> dict[str, Path]:
    """A checkpoint, or those in a folder of checkpoints, by their names. Raises UserError if there is none."""
    if (folder / "config.json").is_file():
        return {folder.resolve().name: folder}
    found = {path.parent.name: path.parent for path in sorted(folder.glob("*/config.json"))}
    if not found:
        raise UserError(
            f"{folder} is not a checkpoint: it has no config.json, and no folder in it has one; "
            "give a folder that save_pretrained wrote, or one of such folders"
        )
    return found


@dataclass(frozen=True)
class Explorer:
    """The pages. One text at a time goes through a model; the models used last stay in memory."""

    folders: Mapping[str, Path]
    text: str = ""
    _lock: Lock = field(default_factory=Lock, repr=False)

    def answer(self, query: Mapping[str, str]) -> str:
        """The page of a query: `text`, `model`, and `beside` for a second model."""
        text = query.get("text", "") or self.text or SAMPLE
        first = query.get("model", "") or next(iter(self.folders))
        names = [first, beside] if (beside := query.get("beside", "")) not in ("", first) else [first]
        form = {
            "text": text,
            "names": list(self.folders),
            "model": first,
            "beside": beside,
            "most": LONGEST,
        }
        return page([self._panel(name, text) for name in names], title=TITLE, form=form)

    def _panel(self, name: str, text: str) -> Panel:
        try:
            if name not in self.folders:
                raise UserError(f"model {name!r} is not here; choose one of {', '.join(self.folders)}")
            if len(text) > LONGEST:
                raise UserError(f"the text has {len(text):,} characters; give at most {LONGEST:,}")
            check_unicode(text, "the text")
            with self._lock:
                model, tokenizer = _loaded(self.folders[name])
                tokens = routed_tokens(model, tokenizer, text)
            blocks = routing_blocks(model)
            return panel(tokens, range(len(blocks)), blocks, name=name)
        except UserError as error:
            return Panel(name=name, problem=str(error))


@lru_cache(maxsize=4)
def _loaded(folder: Path) -> tuple[MHMoEForCausalLM, Tokenizer]:
    return load_checkpoint(folder)


def server(folders: Mapping[str, Path], port: int, text: str = "") -> ThreadingHTTPServer:
    """Bound and not yet answering. Raises UserError if the port cannot be had."""
    explorer = Explorer(folders, text)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            place = urlsplit(self.path)
            if self.headers.get("Host", "").rpartition(":")[0] not in (HOST, "localhost"):
                self.send_error(403, "ask by 127.0.0.1 or localhost")
            elif place.path != "/":
                self.send_error(404)
            else:
                query = {name: values[-1] for name, values in parse_qs(place.query).items()}
                self._send(explorer.answer(query).encode())

        def _send(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: texts stay here."""

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        raise UserError(f"port={port} cannot be had ({error}); choose another one, or 0 for any that is free") from None


def serve(folders: Mapping[str, Path], port: int, text: str = "") -> None:
    """Answer until interrupted."""
    with server(folders, port, text) as answering:
        models = f"{len(folders)} model{'s' if len(folders) > 1 else ''}"
        print(f"{models}: http://{HOST}:{answering.server_address[1]}   (Ctrl-C ends it)", flush=True)
        try:
            answering.serve_forever()
        except KeyboardInterrupt:
            print()
