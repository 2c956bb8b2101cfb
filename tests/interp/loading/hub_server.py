"""A server on this machine that answers as the Hugging Face hub does, for the few questions that a download asks."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

NAME = "tester/tiny"


@dataclass
class Hub:
    """One repository, ``NAME``: revisions as folders, and who may read it. ``asked`` holds every request."""

    revisions: dict[str, Path]
    token: str | None = None
    url: str = ""
    asked: list[str] = field(default_factory=list)

    def commit(self, revision: str) -> str | None:
        """A hash for each branch or tag; a commit stands for itself."""
        commits = {name: hashlib.sha1(name.encode()).hexdigest() for name in self.revisions}
        return revision if revision in commits.values() else commits.get(revision)

    def folder(self, commit: str) -> Path:
        return next(path for name, path in self.revisions.items() if self.commit(name) == commit)

    def files(self, commit: str) -> list[Path]:
        return sorted(path for path in self.folder(commit).iterdir() if path.is_file())

    def resolved(self) -> list[str]:
        """The files whose content was fetched."""
        return [line.split("/")[-1] for line in self.asked if line.startswith("GET") and "/resolve/" in line]


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Nothing on the tests' stderr."""

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self.answer(401, b"", {"X-Error-Code": "RepoNotFound"})
            for start, method in (
                (f"/api/models/{NAME}/tree/", self.tree),
                (f"/api/models/{NAME}/revision/", self.info),
                (f"/{NAME}/resolve/", self.file),
            ):
                if path.startswith(start):
                    revision, _, rest = path.removeprefix(start).partition("/")
                    commit = hub.commit(revision)
                    if commit is None:
                        return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
                    return method(commit, rest)
            if path == f"/api/models/{NAME}":
                return self.info(str(hub.commit("main")), "")
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

        def info(self, commit: str, _: str) -> None:
            siblings = [{"rfilename": f.name, "size": f.stat().st_size, "blobId": "0"} for f in hub.files(commit)]
            self.answer(200, json.dumps({"id": NAME, "sha": commit, "siblings": siblings}).encode())

        def tree(self, commit: str, _: str) -> None:
            entries = [
                {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0"} for f in hub.files(commit)
            ]
            self.answer(200, json.dumps(entries).encode())

        def file(self, commit: str, name: str) -> None:
            path = hub.folder(commit) / name
            if not path.is_file():
                return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            content = path.read_bytes()
            headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
            return self.answer(200, content, headers)

        def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    return Handler


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """While it lasts, ``hub.url`` answers."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
