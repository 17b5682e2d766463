"""A model hub on 127.0.0.1 that speaks what huggingface_hub's client asks, and fails on request.

Files kept in LFS are redirected to another host name of the same server, as the real hub redirects
to its storage: a token must not follow there. What was asked is in `requests`.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

REFUSALS = {
    "gated": (403, "GatedRepo", "Access to this model is restricted"),
    "unauthorized": (401, None, "Invalid credentials in Authorization header"),
    "unknown": (401, "RepoNotFound", "Invalid username or password."),
    "busy": (503, None, "Service Unavailable"),
    "limited": (429, None, "Too Many Requests"),
}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


@dataclass
class Repo:
    files: dict[str, bytes]
    lfs: frozenset[str]
    refs: dict[str, str]

    def digest(self, name: str) -> str:
        return (sha256 if name in self.lfs else git_sha1)(self.files[name])

    def listing(self, commit: str) -> dict[str, object]:
        siblings = []
        for name, content in self.files.items():
            entry: dict[str, object] = {
                "rfilename": name,
                "size": len(content),
                "blobId": git_sha1(content),
            }
            if name in self.lfs:
                entry["lfs"] = {
                    "sha256": sha256(content),
                    "size": len(content),
                    "pointerSize": 134,
                }
            siblings.append(entry)
        return {"id": "", "sha": commit, "siblings": siblings, "tags": [], "gated": False}


@dataclass
class HubServer:
    """Repositories, and the faults of the next answers.

    Attributes:
        cuts: file name -> byte counts, one for each answer that is to be cut after so many.
        wrong: file name -> how many answers carry wrong bytes.
        refusals: `listing` or a file name -> keys of REFUSALS, one for each answer; the last stays
            when it is prefixed with `!`.
    """

    endpoint: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    wrong: dict[str, int] = field(default_factory=dict)
    refusals: dict[str, list[str]] = field(default_factory=dict)
    ignores_range: bool = False

    def add(self, name: str, files: dict[str, bytes], *, lfs: tuple[str, ...] = ()) -> str:
        """Publish a repository; returns its commit, which also `main` and `v1.0` stand for."""
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        kept = frozenset(lfs) | {file for file in files if file.endswith((".safetensors", ".bin"))}
        refs = {"main": commit, "v1.0": commit, commit: commit}
        self.repos[name] = Repo(dict(files), kept, refs)
        return commit

    @property
    def downloaded(self) -> list[str]:
        """Names of the files whose content was asked for, in order."""
        return [
            request.path.rpartition("/")[2]
            for request in self.requests
            if request.method == "GET" and "/resolve/" in request.path
        ]

    def ranges(self, name: str) -> list[str | None]:
        """The Range of each request for the content of a file."""
        return [
            request.range
            for request in self.requests
            if request.method == "GET"
            and request.path.endswith("/" + name)
            and "/resolve/" in request.path
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms
    hub: HubServer

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name is theirs
        pass

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append(Request(self.command, path, headers))
        parts = path.strip("/").split("/")
        if parts[0] == "storage":
            self.content("/".join(parts[1:3]), parts[3])
        elif parts[:2] == ["api", "models"]:
            self.api("/".join(parts[2:4]), "/".join(parts[5:]) or "main")
        elif "resolve" in parts and len(parts) == 5:
            self.resolve("/".join(parts[:2]), parts[3], parts[4])
        else:
            self.error(404, None, "no such page")

    def api(self, name: str, revision: str) -> None:
        if self.refused("listing"):
            return
        repo = self.hub.repos.get(name)
        if repo is None:
            self.error(404, "RepoNotFound", "Repository not found")
        elif revision not in repo.refs:
            self.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            body = json.dumps(repo.listing(repo.refs[revision])).encode()
            self.send(200, {"Content-Type": "application/json"}, body)

    def resolve(self, name: str, revision: str, file: str) -> None:
        if self.refused(file):
            return
        repo = self.hub.repos.get(name)
        if repo is None:
            self.error(404, "RepoNotFound", "Repository not found")
        elif revision not in repo.refs:
            self.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif file not in repo.files:
            self.error(404, "EntryNotFound", "Entry not found")
        else:
            headers = {
                "X-Repo-Commit": repo.refs[revision],
                "X-Linked-Size": str(len(repo.files[file])),
                "X-Linked-Etag": f'"{repo.digest(file)}"',
                "ETag": f'"{repo.digest(file)}"',
            }
            if file in repo.lfs:
                storage = self.hub.endpoint.replace("127.0.0.1", "localhost")
                headers["Location"] = f"{storage}/storage/{name}/{file}?Signature=s3cret"
                self.send(302, headers, b"")
            else:
                self.content(name, file, headers)

    def content(self, name: str, file: str, headers: dict[str, str] | None = None) -> None:
        whole = self.hub.repos[name].files[file]
        if self.hub.wrong.get(file, 0) > 0:
            self.hub.wrong[file] -= 1
            whole = bytes(byte ^ 1 for byte in whole)
        headers, start, status = dict(headers or {}), 0, 200
        asked = self.headers.get("Range")
        if asked and not self.hub.ignores_range:
            start, status = int(asked.removeprefix("bytes=").removesuffix("-")), 206
            headers["Content-Range"] = f"bytes {start}-{len(whole) - 1}/{len(whole)}"
        cuts = self.hub.cuts.get(file)
        cut = cuts.pop(0) if cuts and self.command == "GET" else None
        self.send(status, headers, whole[start:], cut=cut)

    def refused(self, what: str) -> bool:
        waiting = self.hub.refusals.get(what)
        if not waiting:
            return False
        key = waiting[0] if waiting[0].startswith("!") else waiting.pop(0)
        self.error(*REFUSALS[key.removeprefix("!")])
        return True

    def error(self, status: int, code: str | None, message: str) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.send(status, headers, json.dumps({"error": message}).encode())

    def send(
        self, status: int, headers: dict[str, str], body: bytes, *, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.close_connection = True


@contextmanager
def serve() -> Iterator[HubServer]:
    """A hub that answers until the block ends."""
    hub = HubServer()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
