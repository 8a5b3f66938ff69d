"""A local stand-in for the hub: the requests that huggingface_hub makes, answered from folders."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest


def commit_id(repository: str, revision: str) -> str:
    """The commit of a revision, which may be one itself."""
    if re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    return hashlib.sha1(f"{repository}@{revision}".encode()).hexdigest()


@dataclass
class Hub:
    """repositories: name -> revision -> folder; cut: file -> how many downloads break half-way."""

    endpoint: str = ""
    repositories: dict[str, dict[str, Path]] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    licenses: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, repository: str, folder: Path, revision: str = "main") -> None:
        self.repositories.setdefault(repository, {})[revision] = folder

    def downloads(self) -> list[str]:
        """The files that were sent, in order."""
        return [
            unquote(path.split("/resolve/")[1].split("/", 1)[1])
            for verb, path, _ in self.requests
            if verb == "GET" and "/resolve/" in path
        ]

    def folder(self, repository: str, revision: str) -> tuple[str, Path] | None:
        for name, folder in self.repositories[repository].items():
            commit = commit_id(repository, name)
            if revision in (name, commit):
                return commit, folder
        return None


class Handler(BaseHTTPRequestHandler):
    """Three kinds of paths: /api/models/R[/revision/V], /api/models/R/tree/V, /R/resolve/V/F."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing; requests are kept in the hub's list."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        asked = urlsplit(self.path).path
        self.hub.requests.append((self.command, asked, self.headers.get("Range", "")))
        parts = [unquote(part) for part in asked.strip("/").split("/")]
        api = parts[:2] == ["api", "models"]
        repository = "/".join(parts[2:4] if api else parts[:2])
        rest = parts[4:] if api else parts[2:]
        if repository in self.hub.gated:
            return self.refuse(403, "GatedRepo")
        if repository not in self.hub.repositories:
            return self.refuse(401, "RepoNotFound")
        revision = rest[1] if len(rest) > 1 else "main"
        entry = self.hub.folder(repository, revision)
        if entry is None:
            return self.refuse(404, "RevisionNotFound")
        commit, folder = entry
        if api:
            return self.send_json(self.listing(repository, commit, folder, rest[:1] == ["tree"]))
        return self.send_file(commit, folder, "/".join(rest[2:]), body)

    def listing(self, repository: str, commit: str, folder: Path, tree: bool) -> object:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        names = {path.relative_to(folder).as_posix(): path for path in files}
        if tree:
            return [
                {"type": "file", "path": name, "size": path.stat().st_size, "oid": commit}
                for name, path in names.items()
            ]
        siblings = [
            {"rfilename": name, "size": path.stat().st_size} for name, path in names.items()
        ]
        return {
            "_id": "0",
            "id": repository,
            "sha": commit,
            "private": False,
            "siblings": siblings,
            "cardData": {"license": self.hub.licenses.get(repository)},
        }

    def send_json(self, value: object) -> None:
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(text)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_file(self, commit: str, folder: Path, name: str, body: bool) -> None:
        if not (folder / name).is_file():
            return self.refuse(404, "EntryNotFound")
        if name in self.hub.down and body:
            return self.refuse(500, "Down")
        data = (folder / name).read_bytes()
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if body:
            self.send_body(name, data[start:])

    def send_body(self, name: str, data: bytes) -> None:
        if self.hub.cut.get(name, 0) > 0:
            self.hub.cut[name] -= 1
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        else:
            self.wfile.write(data)


@contextmanager
def serve() -> Iterator[Hub]:
    hub = Hub()
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def in_place_of_the_hub(patch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """The stand-in, with this process's huggingface_hub pointed at it and a cache of its own."""
    from huggingface_hub import constants, file_download

    with serve() as server:
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "ENDPOINT", server.endpoint)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield server
