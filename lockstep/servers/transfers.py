"""Transfers: several downloads at once, and what is said to the person who waits.

Four at a time on daemon threads, so that Ctrl-C ends at once however long a server is silent. A server that
sends nothing is said after ten seconds, and so is every further try.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from lockstep.progress import Progress, Task

if TYPE_CHECKING:
    import httpx

    from lockstep.servers.download import Download
    from lockstep.servers.servers import Servers

_AT_ONCE = 4
SILENCE = 10.0
"""Seconds without a byte from any server after which that is said; then after twice as long, and so on."""


class StoppedError(Exception):
    """The others failed or the person pressed Ctrl-C: leave the part as it is."""


@dataclass
class Session:
    """What the downloads of one command share: client, settings, progress, and whether to stop."""

    client: httpx.Client
    servers: Servers
    progress: Progress
    task: Task
    stop: threading.Event = field(default_factory=threading.Event)
    _waiting_for: dict[int, str] = field(default_factory=dict)
    _heard: float = field(default_factory=time.monotonic)
    _said: float = field(default_factory=lambda: SILENCE)

    @contextlib.contextmanager
    def waiting_for(self, host: str) -> Iterator[None]:
        """Note for the time of the block which server this thread waits for."""
        self._waiting_for[threading.get_ident()] = host
        try:
            yield
        finally:
            self._waiting_for.pop(threading.get_ident(), None)

    def heard(self) -> None:
        """Note that bytes came."""
        self._heard, self._said = time.monotonic(), SILENCE

    def pause(self, problem: str, seconds: float, attempt: int, tries: int) -> None:
        """Say that a download is tried again, and wait. Raises StoppedError if all are to stop meanwhile."""
        self.progress.say(f"{problem}: trying again in {seconds:.1f} s (try {attempt} of {tries}).")
        if self.stop.wait(seconds):
            raise StoppedError
        self.heard()  # the silence until here was our own

    def say_silence(self, timeout: float) -> None:
        """Say who is waited for, if nothing came for long enough; a try ends after `timeout` seconds of silence."""
        silent = time.monotonic() - self._heard
        hosts = ", ".join(sorted(set(self._waiting_for.values())))
        if hosts and silent >= self._said:
            self._said *= 2
            self.progress.say(
                f"Waiting for {hosts}: nothing came for {silent:.0f} s; after {timeout:.0f} s it is tried again."
            )


def transfer(downloads: Sequence[Download], servers: Servers, progress: Progress, what: str) -> None:
    """Run the downloads; `what` names them on the progress line. The first error stops all and is raised."""
    waiting: SimpleQueue[Download] = SimpleQueue()
    for download in downloads:
        waiting.put(download)
    results: SimpleQueue[BaseException | None] = SimpleQueue()
    total = sum(download.size or 0 for download in downloads)
    with servers.client() as client, progress.task(f"Fetching {what}", total or None) as task:
        session = Session(client, servers, progress, task)

        def work() -> None:
            while not session.stop.is_set():
                try:
                    download = waiting.get_nowait()
                except Empty:
                    return
                try:
                    download.run(session)
                    results.put(None)
                except BaseException as error:  # the waiting thread raises it
                    results.put(error)

        for _ in range(min(_AT_ONCE, len(downloads))):
            threading.Thread(target=work, name="fetch", daemon=True).start()
        left = len(downloads)
        try:
            while left:
                try:
                    error = results.get(timeout=SILENCE / 4)
                except Empty:
                    session.say_silence(client.timeout.read or 0.0)
                    continue
                left -= 1
                if error is not None and not isinstance(error, StoppedError):
                    raise error
        finally:
            session.stop.set()
