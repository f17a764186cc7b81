"""Connection: a client's connection, and how long it may let the server wait.

uvicorn itself waits for ever for a request's head. Here a client that is slow with one is cut off, as is one that
stops in the middle of a body; and of many connections on which nothing is asked the oldest make room for new ones.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


@dataclass(frozen=True)
class Patience:
    """How long (seconds) a client may take for TLS, for a request's head and between pieces of a body.

    Beyond `connections`, those on which nothing is asked are closed, the oldest first.
    """

    head: float = 10.0
    body: float = 60.0
    connections: int = 400


PATIENCE = Patience()


class Connection(H11Protocol):
    """A connection that knows since when it waits for a request's head, and when it last heard anything."""

    patience = PATIENCE

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.waits_since = self.heard = time.monotonic()
        super().connection_made(transport)
        idle = [one for one in cast("set[Connection]", self.connections) if one.is_idle]
        too_many = max(len(self.connections) - self.patience.connections, 0)
        for one in sorted(idle, key=lambda one: one.waits_since)[:too_many]:
            one.cut()

    def data_received(self, data: bytes) -> None:
        self.heard = time.monotonic()
        super().data_received(data)

    def on_response_complete(self) -> None:
        self.waits_since = time.monotonic()
        super().on_response_complete()

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way: its head isn't there, or it has been answered."""
        return self.cycle is None or self.cycle.response_complete

    def is_overdue(self, now: float) -> bool:
        """Tell whether the client has let us wait too long. While we don't read, it need not send."""
        if self.conn.their_state is h11.SEND_BODY:  # also after an answer that didn't wait for the body's end
            return not self.flow.read_paused and now - self.heard > self.patience.body
        return self.is_idle and now - self.waits_since > self.patience.head

    def cut(self) -> None:
        """Close the connection without waiting for anything."""
        self.connections.discard(self)
        self.transport.abort()


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose servers let a client take `patience.head` seconds for TLS; asyncio itself gives it 60."""

    def __init__(self, patience: Patience) -> None:
        super().__init__()
        self._patience = patience

    async def create_server(self, *arguments: Any, **options: Any) -> asyncio.Server:
        if options.get("ssl"):
            options["ssl_handshake_timeout"] = self._patience.head
        return await super().create_server(*arguments, **options)


async def cut_overdue(connections: set[Any], patience: Patience) -> None:
    """Look through a server's connections again and again, and cut those that are overdue."""
    while True:
        await asyncio.sleep(min(1.0, patience.head / 4))
        now = time.monotonic()
        for one in list(connections):
            if one.is_overdue(now):
                one.cut()
