"""A hub on this machine: as much of the interface of huggingface.co as downloads and uploads use."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = ".safetensors"
"""Files with this suffix are uploaded beside the commit, as large files are."""


@dataclass
class Repository:
    """Commits by id, and the commit of each branch and tag."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], message: str = "") -> str:
        """Add a commit with more files to a branch."""
        before = self.commits.get(self.refs.get(branch, ""), {})
        number = hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()
        self.commits[number] = {**before, **files}
        self.refs[branch] = number
        self.messages.append(message)
        return number

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, a tag or a commit."""
        return self.refs.get(revision, revision if revision in self.commits else None)


class Hub(ThreadingHTTPServer):
    """The server.

    Attributes:
        repositories: by name.
        requests: method, path and headers of every request.
        cut_off: bytes after which the next download of a large file ends.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.cut_off: int | None = None

    @property
    def url(self) -> str:
        """Address of the hub."""
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, code: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        self.send_header("Content-Length", (headers or {}).pop("Content-Length", str(len(body))))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any, code: int = 200) -> None:
        self._answer(code, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, code: int, name: str) -> None:
        self._answer(code, b"", {"X-Error-Code": name, "X-Error-Message": name})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _repository(self, name: str) -> Repository | None:
        found = self.server.repositories.get(name)
        allowed = "Authorization" in self.headers
        if found is None or (found.private and not allowed):
            self._error(404 if allowed else 401, "RepoNotFound")
            return None
        if found.gated and not allowed:
            self._error(403, "GatedRepo")
            return None
        return found

    def do_HEAD(self) -> None:
        """As GET."""
        self.do_GET()

    def do_GET(self) -> None:
        """Information on a revision, its files, or a file."""
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path, dict(self.headers)))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?/?", path):
            name, what, revision = found.groups()
            self._listing(name, what or "revision", revision or "main")
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(*found.groups())
        else:
            self._error(404, "EntryNotFound")

    def _listing(self, name: str, what: str, revision: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        commit = repository.resolve(revision)
        if commit is None:
            self._error(404, "RevisionNotFound")
            return
        files = repository.commits[commit]
        if what == "tree":
            self._json([_entry(path, data) for path, data in files.items()])
        else:
            siblings = [{"rfilename": path} for path in files]
            self._json({"id": name, "modelId": name, "sha": commit, "siblings": siblings, "private": False})

    def _file(self, name: str, revision: str, path: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        commit = repository.resolve(revision)
        data = None if commit is None else repository.commits[commit].get(path)
        if commit is None or data is None:
            self._error(404, "RevisionNotFound" if commit is None else "EntryNotFound")
            return
        headers = {"ETag": f'"{_etag(path, data)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        start, code = 0, 200
        if found := re.match(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start, code = int(found[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = data[start:]
        if self.command == "GET" and path.endswith(LARGE) and self.server.cut_off is not None:
            body, self.server.cut_off = body[: self.server.cut_off], None
            headers["Content-Length"] = str(len(data) - start)
            self.close_connection = True
        self._answer(code, body, headers)

    def do_POST(self) -> None:
        """Make a repository or a branch, announce files, commit."""
        parts = urlsplit(self.path)
        path, body = unquote(parts.path), self._body()
        self.server.requests.append((self.command, path, dict(self.headers)))
        if path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "Authorization" not in self.headers:
            self._error(401, "Unauthorized")
        elif path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given['organization']}/{given['name']}" if given.get("organization") else given["name"]
            if name in self.server.repositories:
                self._json({"url": f"{self.server.url}/{name}"}, 409)
                return
            repository = Repository(
                private=given.get("visibility") == "private" or bool(given.get("private"))
            )
            repository.commit("main", {})
            self.server.repositories[name] = repository
            self._json({"url": f"{self.server.url}/{name}"})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/branch/([^/]+)", path):
            refs = self.server.repositories[found[1]].refs
            refs.setdefault(found[2], refs["main"])
            self._json({})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", path):
            names = [one["path"] for one in json.loads(body)["files"]]
            modes = {True: "lfs", False: "regular"}
            files = [
                {"path": one, "uploadMode": modes[one.endswith(LARGE)], "shouldIgnore": False}
                for one in names
            ]
            self._json({"files": files})
        elif found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            objects = []
            for one in json.loads(body)["objects"]:
                action = {"upload": {"href": f"{self.server.url}/upload/{one['oid']}"}}
                objects.append({**one, **({} if one["oid"] in self.server.objects else {"actions": action})})
            self._json({"transfer": "basic", "objects": objects})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", path):
            self._commit(found[1], found[2], body, parse_qs(parts.query))
        else:
            self._error(404, "EntryNotFound")

    def _commit(self, name: str, branch: str, body: bytes, _: dict[str, list[str]]) -> None:
        repository, files, message = self.server.repositories[name], {}, ""
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                assert item["key"] == "lfsFile"
                files[value["path"]] = self.server.objects[value["oid"]]
        commit = repository.commit(branch, files, message)
        self._json({"commitUrl": f"{self.server.url}/{name}/commit/{commit}", "commitOid": commit})

    def do_PUT(self) -> None:
        """Receive a large file."""
        data = self._body()
        number = self.path.rpartition("/")[2]
        assert hashlib.sha256(data).hexdigest() == number
        self.server.objects[number] = data
        self._answer(200)


def _etag(path: str, data: bytes) -> str:
    kind = hashlib.sha256 if path.endswith(LARGE) else hashlib.sha1
    return kind(data).hexdigest()


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "type": "file",
        "path": path,
        "size": len(data),
        "oid": hashlib.sha1(data).hexdigest(),
    }
    if path.endswith(LARGE):
        number = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"oid": number, "size": len(data), "pointerSize": 130}
    return entry


@contextmanager
def hub() -> Iterator[Hub]:
    """Start the server."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
