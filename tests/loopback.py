"""Servers on loopback for the tests: files with ranges, faults on demand, conda channels, package indexes."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import ssl
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.packages import Made


@dataclass(frozen=True)
class Request:
    """A request as it came."""

    method: str
    path: str
    headers: Message


@dataclass(frozen=True)
class Fault:
    """What goes wrong once: another status, wrong bytes, or an end after `cut` bytes of the body."""

    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    cut: int | None = None
    body: bytes | None = None
    ranges: bool = True
    chunked_end: bool = False
    """Leave the length out and end early, as some proxies do."""


@dataclass
class Loopback:
    """A web server of `files`; `faults` are used up, one a request of their path; `login` is for all."""

    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, deque[Fault]] = field(default_factory=dict)
    login: tuple[str, str] | None = None
    requests: list[Request] = field(default_factory=list)
    before: Callable[[Request], None] | None = None
    url: str = ""
    tls: ssl.SSLContext | None = None

    def __enter__(self) -> Loopback:
        loopback = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                loopback.answer(self)

            do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """A client that hangs up is what some tests are about."""

        self._server = Server(("127.0.0.1", 0), Handler)
        if self.tls:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http{'s' if self.tls else ''}://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def gets(self, path: str) -> list[Request]:
        """Return the GET requests of a path."""
        return [request for request in self.requests if request.path == path and request.method == "GET"]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request: with a fault if one is due, else with the file."""
        path = handler.path.partition("?")[0]
        request = Request(handler.command, path, handler.headers)
        self.requests.append(request)
        if self.before:
            self.before(request)
        if self.login and not self._may_in(handler.headers):
            handler.send_response(401)
            handler.send_header("content-length", "0")
            handler.end_headers()
            return
        due = self.faults.get(path)
        fault = due.popleft() if due and handler.command == "GET" else Fault()
        body = self.files.get(path)
        status = fault.status or (200 if body is not None else 404)
        body = fault.body if fault.body is not None else (body or b"")
        headers = list(fault.headers)
        if fault.status:
            body = b"no"
        elif status == 200 and fault.ranges and (asked := handler.headers.get("range")):
            start = int(asked.removeprefix("bytes=").split("-")[0])
            if start >= len(body):
                status, body = 416, b""
            else:
                status = 206
                headers.append(("content-range", f"bytes {start}-{len(body) - 1}/{len(body)}"))
                body = body[start:]
        handler.send_response(status)
        for name, value in headers:
            handler.send_header(name, value)
        if "/simple/" in path:
            handler.send_header("content-type", "application/vnd.pypi.simple.v1+json")
        if fault.chunked_end:
            handler.send_header("connection", "close")
            handler.close_connection = True
        else:
            handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(body if fault.cut is None else body[: fault.cut])
        if fault.cut is not None:
            handler.close_connection = True

    def _may_in(self, headers: Message) -> bool:
        assert self.login
        expected = base64.b64encode(":".join(self.login).encode()).decode()
        return headers.get("authorization") == f"Basic {expected}"

    def channel(self, name: str, folder: Path, *packages: Made, indexed_at: bool = True) -> str:
        """Serve a conda channel of these packages under `/<name>`, indexed for real; return its URL.

        Without `indexed_at` it looks like older channels, which don't say when a package was indexed.
        """
        from rattler.index import index_fs

        for subdir in ("noarch", "linux-64"):
            (folder / subdir).mkdir(parents=True, exist_ok=True)
        for package in packages:
            subdir, filename = package.locked.url.split("/")[-2:]
            (folder / subdir / filename).write_bytes(package.data)

        async def index() -> None:
            await index_fs(folder)

        asyncio.run(index())
        for path in [] if indexed_at else folder.rglob("repodata*"):
            if path.name == "repodata.json":
                path.write_bytes(re.sub(rb'"indexed_timestamp": ?\d+,?', b"", path.read_bytes()))
            else:
                path.unlink()
        for path in folder.rglob("*"):
            if path.is_file():
                self.files[f"/{name}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
        return f"{self.url}/{name}"

    def index(self, *wheels: Made, name: str = "simple", bare: Sequence[str] = ()) -> str:
        """Serve a package index (PEP 691) of these wheels; return its URL.

        The wheels of the names in `bare` are listed without size and hash, as old indexes do.
        """
        projects: dict[str, list[dict[str, object]]] = {}
        for wheel in wheels:
            locked = wheel.locked
            path = f"/{name}-files/{locked.filename}"
            self.files[path] = wheel.data
            entry: dict[str, object] = {"filename": locked.filename, "url": self.url + path, "hashes": {}}
            if locked.name not in bare:
                entry |= {"hashes": {"sha256": locked.sha256}, "size": locked.size}
            entry["upload-time"] = f"2026-01-0{locked.version[0]}T00:00:00Z"
            projects.setdefault(locked.name, []).append(entry)
        for project, files in projects.items():
            page = {"meta": {"api-version": "1.1"}, "name": project, "files": files}
            self.files[f"/{name}/simple/{project}/"] = json.dumps(page).encode()
        return f"{self.url}/{name}/simple"
