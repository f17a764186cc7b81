"""A read-only OCI registry on loopback that serves one image straight from the layer store.

OCI distribution spec, "Pull": `GET|HEAD /v2/`, manifests by tag or digest, blobs by digest, with byte
ranges so that an engine can go on where it was cut off. The image is found only under a name that
nobody else on the machine can guess.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from lockstep.image import MANIFEST, Image
from lockstep.image.store import Store

TAG = "image"


@dataclass
class Loopback:
    """The running registry: `127.0.0.1:<port>/<name>`; `asked` is set by the first request."""

    repository: str
    asked: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def serve(
    image: Image, store: Store, on_sent: Callable[[str], None] = lambda digest: None
) -> Iterator[Loopback]:
    """Serve `image` on a free port of 127.0.0.1 until the block ends; open transfers are cut then.

    `on_sent` is told the digest of each blob that has been sent whole, from the serving threads.
    """
    name = f"lockstep/{secrets.token_hex(8)}"
    blobs: dict[str, bytes | Path] = {layer.digest: store.blob(layer.digest) for layer in image.layers}
    blobs[image.id] = image.config
    with _Server(name, image, blobs, on_sent) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield Loopback(f"127.0.0.1:{server.server_address[1]}/{name}", server.asked)
        finally:
            server.cut()
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(
        self, name: str, image: Image, blobs: dict[str, bytes | Path], on_sent: Callable[[str], None]
    ) -> None:
        self.name = name
        self.image = image
        self.blobs = blobs
        self.on_sent = on_sent
        self.asked = threading.Event()
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: object, client_address: object) -> None:
        assert isinstance(request, socket.socket)
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: object) -> None:
        self._open.discard(request)  # type: ignore[arg-type] # always a socket
        super().shutdown_request(request)  # type: ignore[arg-type] # always a socket

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: an engine that hangs up asks again, or tells the reason itself."""

    def cut(self) -> None:
        """Hang up on everybody."""
        for request in list(self._open):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    # containerd tries TLS first, and plain HTTP only if the answer to that begins with "HTTP/"
    default_request_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(send_body=False)

    def do_GET(self) -> None:
        self._answer(send_body=True)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing; the engine's progress is what people see."""

    def _answer(self, *, send_body: bool) -> None:
        self.server.asked.set()
        image = self.server.image
        if self.path == "/v2/":
            self._send(b"{}", "application/json", send_body=send_body)
            return
        asked = re.fullmatch(rf"/v2/{self.server.name}/(manifests|blobs)/([\w:.-]+)", self.path)
        kind, wanted = asked.groups() if asked else ("", "")
        if kind == "manifests" and wanted in (TAG, image.digest):
            self._send(image.manifest, MANIFEST, digest=image.digest, send_body=send_body)
        elif kind == "blobs" and wanted in self.server.blobs:
            blob = self.server.blobs[wanted]
            self._send(blob, "application/octet-stream", digest=wanted, send_body=send_body)
            if send_body:
                self.server.on_sent(wanted)
        else:
            body = b'{"errors":[{"code":"NAME_UNKNOWN","message":"not served here"}]}'
            self._send(body, "application/json", status=HTTPStatus.NOT_FOUND, send_body=send_body)

    def _send(
        self,
        content: bytes | Path,
        media_type: str,
        *,
        digest: str = "",
        status: HTTPStatus = HTTPStatus.OK,
        send_body: bool,
    ) -> None:
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        begin = 0
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            begin = min(int(asked[1]), size)
            status = HTTPStatus.PARTIAL_CONTENT
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(size - begin))
        if digest:
            self.send_header("Docker-Content-Digest", digest)
            self.send_header("Accept-Ranges", "bytes")
        if begin or status is HTTPStatus.PARTIAL_CONTENT:
            self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
        self.end_headers()
        if not send_body:
            return
        if isinstance(content, bytes):
            self.wfile.write(content[begin:])
            return
        with content.open("rb") as file:
            self.connection.sendfile(file, begin)  # the kernel copies; nothing passes through this process
