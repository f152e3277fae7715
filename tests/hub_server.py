"""A small server on this machine that answers as the Hub does, as far as a timeline asks it."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse


class Hub:
    """Repositories of one test.

    revisions  name of a branch -> (commit, folder that holds its files)
    tags       name -> commit
    ranges     whether a part of a file can be asked for
    sent       bytes of file contents that were sent, by file name
    """

    def __init__(self, revisions: dict[str, tuple[str, Path]], tags: dict[str, str]) -> None:
        self.revisions, self.tags = revisions, tags
        self.ranges = True
        self.sent: Counter[str] = Counter()
        self.on_file = lambda: None
        self.endpoint = ""

    def folder(self, revision: str) -> Path | None:
        """Files of a branch, tag or commit; None where there is no such revision."""
        commit = self.commit(revision)
        return next((path for sha, path in self.revisions.values() if sha == commit), None)

    def commit(self, revision: str) -> str | None:
        """The commit a revision stands for."""
        if revision in self.revisions:
            return self.revisions[revision][0]
        known = {sha for sha, _ in self.revisions.values()}
        return self.tags.get(revision, revision if revision in known else None)


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Answer on a free port of the loopback address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_GET(self):
            path = unquote(urlparse(self.path).path)
            if match := re.fullmatch(r"/api/models/(.+?)/refs", path):
                self._json(_refs(hub))
            elif match := re.fullmatch(r"/api/models/(.+?)/revision/([^/]+)", path):
                self._about(*match.groups())
            elif match := re.fullmatch(r"/api/models/(.+?)/tree/([^/]+)(?:/(.*))?", path):
                folder = hub.folder(match[2])
                deep = "recursive=true" in self.path.lower()
                self._json(_tree(folder, match[3] or "", deep)) if folder else self._missing()
            elif match := re.fullmatch(r"/(org/[^/]+)/resolve/([^/]+)/(.+)", path):
                self._file(hub.folder(match[2]), match[3])
            elif match := re.fullmatch(r"/api/models/(org/[^/]+)", path):
                self._about(match[1], "main")
            else:
                self._missing()

        do_HEAD = do_GET

        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._missing()

        def _about(self, repo, revision):
            sha = hub.commit(revision)
            if sha is None:
                return self._missing()
            files = [{"rfilename": one["path"]} for one in _tree(hub.folder(revision), "")]
            return self._json({"id": repo, "modelId": repo, "sha": sha, "siblings": files})

        def _file(self, folder, name):
            hub.on_file()
            if folder is None or not (folder / name).is_file():
                return self._missing("EntryNotFound")
            content = (folder / name).read_bytes()
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            status, headers = 200, {"Accept-Ranges": "bytes" if hub.ranges else "none"}
            if wanted and hub.ranges:
                start, stop = int(wanted[1]), int(wanted[2] or len(content) - 1) + 1
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
                status, content = 206, content[start:stop]
            hub.sent[name] += len(content) if self.command == "GET" else 0
            return self._send(status, content, headers | {"ETag": '"e"', "X-Repo-Commit": "c"})

        def _missing(self, code="RevisionNotFound"):
            self._send(404, b"{}", {"X-Error-Code": code, "X-Error-Message": "not found"})

        def _json(self, value):
            self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _send(self, status, content, headers):
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _refs(hub: Hub) -> dict:
    def entries(kind, named):
        return [
            {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha}
            for name, sha in named.items()
        ]

    branches = {name: sha for name, (sha, _) in hub.revisions.items()}
    return {
        "branches": entries("heads", branches),
        "converts": [],
        "tags": entries("tags", hub.tags),
    }


def _tree(folder: Path, under: str, deep: bool = False) -> list[dict]:
    return [
        {
            "type": "file" if path.is_file() else "directory",
            "oid": "0" * 40,
            "size": path.stat().st_size if path.is_file() else 0,
            "path": str(path.relative_to(folder)),
        }
        for path in sorted((folder / under).rglob("*") if deep else (folder / under).iterdir())
    ]
