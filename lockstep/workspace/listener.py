"""Listener: the addresses that the workspace listens on, all on this machine; more can be added while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import uvicorn

from lockstep.workspace.connection import PATIENCE, Connection, Loop, Patience, cut_overdue
from lockstep.workspace.tls import Authority

log = logging.getLogger("lockstep.workspace")
BACKLOG = 256


class Listener:
    """Serves ASGI applications in a thread of its own, over TLS or, on loopback only, in the clear."""

    def __init__(self, authority: Authority, patience: Patience = PATIENCE) -> None:
        self._authority = authority
        self._context = authority.context()
        self._protocol = type("PatientConnection", (Connection,), {"patience": patience})
        self._patience = patience
        self._loop = Loop(patience)
        self._servers: list[tuple[uvicorn.Server, Future[None]]] = []
        self._cutting: list[Future[None]] = []
        self._addresses: dict[str, int] = {}
        self._sockets: set[Path] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="listener")
        self._thread.start()

    def serve_secure(self, app: Any, address: str, port: int) -> int:
        """Serve over TLS on an address of this machine; return the port, another one if `port` is taken.

        Raises OSError when the address isn't this machine's, or is none.
        """
        if not address:  # a socket would take that for every address
            raise OSError(errno.EADDRNOTAVAIL, "no address")
        with self._lock:
            if address not in self._addresses:
                bound = _bind(address, port)
                others = tuple(one for one in (*self._addresses, address) if one != "127.0.0.1")
                self._authority.certify(self._context, others)
                number = self._addresses[address] = int(bound.getsockname()[1])
                self._serve(app, bound, self._context, f"{address}:{number}")
            return self._addresses[address]

    def serve_secure_socket(self, app: Any, path: Path) -> None:
        """Serve over TLS on a Unix socket at `path` too: only who may look into its folder gets to it."""
        with self._lock:
            if path not in self._sockets:
                self._serve(app, _bind_socket(path), self._context, str(path))
                self._sockets.add(path)

    def serve_clear(self, app: Any, port: int) -> int:
        """Serve without TLS on loopback; return the port."""
        bound = _bind("127.0.0.1", port)
        number = int(bound.getsockname()[1])
        self._serve(app, bound, None, f"127.0.0.1:{number}")
        return number

    def stop(self) -> None:
        """Listen no more; requests under way get a moment to end."""
        for cutting in self._cutting:
            cutting.cancel()
        for server, _ in self._servers:
            server.should_exit = True
        for server, future in self._servers:
            with contextlib.suppress(Exception):
                future.result(3)
            server.force_exit = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(3)
        if not self._thread.is_alive():
            self._loop.close()

    def _serve(self, app: Any, bound: socket.socket, context: ssl.SSLContext | None, where: str) -> None:
        config = uvicorn.Config(
            app,
            http=self._protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,
            ssl_context_factory=(lambda *_: context) if context else None,
        )
        server = uvicorn.Server(config)
        future = asyncio.run_coroutine_threadsafe(server.serve(sockets=[bound]), self._loop)
        self._servers.append((server, future))
        connections = server.server_state.connections
        cutting = cut_overdue(connections, self._patience)
        self._cutting.append(asyncio.run_coroutine_threadsafe(cutting, self._loop))
        while not server.started and not future.done():
            time.sleep(0.002)
        log.info("listening on %s", where)


def _bind(address: str, port: int) -> socket.socket:
    """Return a listening socket; on another port if this one is taken.

    Its protocol is named, because asyncio sends without delay (TCP_NODELAY) only then: else an answer of
    two parts waits 40 ms for the first one's receipt.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for wanted in (port, 0):
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((address, wanted))
            bound.listen(BACKLOG)
        except OSError:
            bound.close()
            if wanted == 0:
                raise
            continue
        return bound
    raise AssertionError("unreachable")


def _bind_socket(path: Path) -> socket.socket:
    """Return a listening Unix socket; a path may be longer than the 108 bytes of sockaddr_un (unix(7))."""
    path.unlink(missing_ok=True)
    bound, folder = socket.socket(socket.AF_UNIX), os.open(path.parent, os.O_PATH)
    try:
        bound.bind(f"/proc/self/fd/{folder}/{path.name}")
        path.chmod(
            0o666
        )  # the folder is closed to others; a job's user, who gets the socket alone, isn't its owner
    finally:
        os.close(folder)
    bound.listen(BACKLOG)
    return bound
