"""A proxy on loopback that refuses everything and remembers what it was asked for."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class RefusingProxy:
    """`asked` are the request lines that came; `port` is where it listens."""

    asked: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        """Its address, as in HTTPS_PROXY."""
        return f"http://127.0.0.1:{self.port}"

    def for_loopback(self) -> list[str]:
        """Return what it was asked for on this machine."""
        return [
            line for line in self.asked if any(name in line for name in ("127.0.0.1", "localhost", "[::1]"))
        ]


@contextlib.contextmanager
def refusing_proxy() -> Iterator[RefusingProxy]:
    """Run one until the block ends."""
    proxy = RefusingProxy()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            proxy.asked.append(self.rfile.readline().decode("latin-1").strip())
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        proxy.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()
