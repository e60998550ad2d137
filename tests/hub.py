"""A stand-in for the Hugging Face hub, on the loopback address: data sets of JSON lines, by the parts of its protocol
that `datasets` and `huggingface_hub` use to load or stream one."""

import hashlib
import json
import re
import threading
import urllib.parse
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "3" * 40  # the only one that a data set has
_NO_FILE = {"X-Error-Code": "EntryNotFound"}
Splits = Mapping[str, Sequence[Mapping[str, Any]]]


@contextmanager
def hub(datasets: Mapping[str, Mapping[str, Splits]]) -> Generator[dict[str, str]]:
    """The environment in which Python finds this hub. datasets: by id and configuration."""
    files = {name: _files(configurations) for name, configurations in datasets.items()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Hub", (_Hub,), {"files": files}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    finally:
        server.shutdown()
        server.server_close()


def _files(configurations: Mapping[str, Splits]) -> dict[str, bytes]:
    """By path; the card says which belongs to which split."""
    found: dict[str, bytes] = {}
    card = ["---", "configs:"]
    for name, splits in configurations.items():
        card += [f"- config_name: {name}", "  data_files:"]
        for split, rows in splits.items():
            card += [f"  - split: {split}", f"    path: {name}/{split}.jsonl"]
            found[f"{name}/{split}.jsonl"] = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return found | {"README.md": "\n".join([*card, "---", ""]).encode()}


class _Hub(BaseHTTPRequestHandler):
    files: Mapping[str, Mapping[str, bytes]]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        for name, files in self.files.items():
            found = re.fullmatch(rf"(/api)?/datasets/{name}(?:/(resolve|revision|tree)/([^/]+)(?:/(.*))?)?", path)
            if not found:
                continue
            _, what, revision, rest = found.groups()
            if revision not in (None, "main", COMMIT):
                return self._send(b"", 404, {"X-Error-Code": "RevisionNotFound"})
            if what == "resolve":
                return self._send(files[rest]) if rest in files else self._send(b"", 404, _NO_FILE)
            if what == "tree":
                return self._say([_entry(each, files[each]) for each in files if each.startswith(rest or "")])
            siblings = [{"rfilename": each} for each in files]
            return self._say({"id": name, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings})
        return self._send(b"", 404, {"X-Error-Code": "RepoNotFound"})

    def _say(self, value: Any) -> None:
        self._send(json.dumps(value).encode(), headers={"Content-Type": "application/json"})

    def _send(self, body: bytes, code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        first, last = 0, len(body) - 1
        if code == 200 and (asked := self.headers.get("Range")):
            first, last = (int(part or last) for part in asked.removeprefix("bytes=").split("-"))
            code = 206
        self.send_response(code)
        told = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": COMMIT, **(headers or {})}
        if code == 206:
            told["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
        for name, value in {**told, "Content-Length": str(last - first + 1)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[first : last + 1])

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a test prints what it needs."""


def _entry(path: str, body: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
