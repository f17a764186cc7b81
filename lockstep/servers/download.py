"""One download: a file by its sha256, resumed where a killed or broken one stopped.

The bytes grow in `<sha256>.part` beside their final place and are hashed as they come. The part is
locked while someone works on it, so two processes never fetch the same file at once.
"""

from __future__ import annotations

import contextlib
import email.utils
import fcntl
import hashlib
import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote, urlsplit

from lockstep.errors import FetchError, IntegrityError
from lockstep.home import disk_full_in_words
from lockstep.progress import Task
from lockstep.servers import Servers, hide, without_userinfo

if TYPE_CHECKING:
    import httpx

_CHUNK = 1 << 20
_TRIES = 5
_LONGEST_WAIT = 60.0
_WORTH_A_RETRY = frozenset({408, 425, 429, 500, 502, 503, 504})


class StoppedError(Exception):
    """The others failed or the person pressed Ctrl-C: leave the part as it is."""


class _RetryError(Exception):
    """What went wrong may go right in a while; `wait` is the seconds that the server asked for."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class Download:
    """What to fetch: `addresses` are URLs to try in turn (they may hold credentials), `size` is in bytes."""

    name: str
    addresses: Sequence[str] = field(repr=False)
    sha256: str
    size: int | None
    target: Path

    def run(self, client: httpx.Client, servers: Servers, task: Task, stop: threading.Event) -> None:
        """Bring the file to `target`. Raises FetchError, IntegrityError or DiskFullError; the part stays."""
        with disk_full_in_words(self.target.parent), self._locked_part() as part:
            if part is None:
                return
            attempt = wrong = 0
            while True:
                before = part.seek(0, 2)
                try:
                    self._try_each_address(part, client, servers, task, stop)
                    break
                except _RetryError as problem:
                    attempt = 1 if part.seek(0, 2) > before else attempt + 1
                    wrong += isinstance(problem, _WrongBytesError)
                    if attempt >= _TRIES or wrong > 1:
                        raise self._given_up(problem) from problem
                    pause = problem.wait or 0.5 * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)  # noqa: S311
                    if stop.wait(min(pause, _LONGEST_WAIT)):
                        raise StoppedError from problem
            part.flush()
            self._part.replace(self.target)

    @property
    def _part(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part")

    @contextlib.contextmanager
    def _locked_part(self) -> Iterator[BinaryIO | None]:
        """Give the part, locked, or None if another process has finished the file meanwhile."""
        while True:
            with self._part.open("a+b") as part:
                fcntl.flock(part, fcntl.LOCK_EX)
                if not self._still_there(part):
                    continue
                if self.target.exists():
                    self._part.unlink()
                    yield None
                else:
                    yield part
                return

    def _still_there(self, part: BinaryIO) -> bool:
        """Tell whether the file that was locked still has its name: its last holder may have moved it."""
        try:
            return os.path.samestat(os.fstat(part.fileno()), self._part.stat())
        except FileNotFoundError:
            return False

    def _try_each_address(
        self, part: BinaryIO, client: httpx.Client, servers: Servers, task: Task, stop: threading.Event
    ) -> None:
        problems: list[FetchError | _RetryError] = []
        for address in self.addresses:
            try:
                self._transfer(address, part, client, servers, task, stop)
                return
            except (FetchError, _RetryError) as problem:
                problems.append(problem)
        raise next((problem for problem in problems if isinstance(problem, _RetryError)), problems[-1])

    def _transfer(
        self,
        address: str,
        part: BinaryIO,
        client: httpx.Client,
        servers: Servers,
        task: Task,
        stop: threading.Event,
    ) -> None:
        """Append what is missing to the part and check it; a part with wrong bytes begins anew."""
        digest = hashlib.sha256()
        part.seek(0)
        while chunk := part.read(_CHUNK):
            digest.update(chunk)
        have = part.tell()
        task.advance(have)
        try:
            if self.size is None or have != self.size:
                for offset, chunk in self._chunks(address, part, client, servers):
                    if stop.is_set():
                        raise StoppedError
                    if offset != have:  # the server can't continue: it sends everything again
                        part.truncate(0)
                        digest, have = hashlib.sha256(), 0
                    if self.size is not None and have + len(chunk) > self.size:
                        break  # more than the lock says: wrong bytes
                    part.write(chunk)
                    digest.update(chunk)
                    have += len(chunk)
                    task.advance(len(chunk))
        finally:
            part.flush()
            if digest.hexdigest() != self.sha256:
                task.advance(-have)
        if self.size is not None and have < self.size:
            raise _RetryError(f"{hide(address)} ended after {have:,} of {self.size:,} bytes")
        if digest.hexdigest() != self.sha256:
            part.truncate(0)
            raise _WrongBytesError(
                f"{hide(address)} sent {have:,} bytes with the sha256 {digest.hexdigest()[:16]}…"
            )

    def _chunks(
        self, address: str, part: BinaryIO, client: httpx.Client, servers: Servers
    ) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, bytes) from the part's end on, or from 0 where the server can't continue."""
        have = part.tell()
        if address.startswith("file:"):
            yield from _read_file(Path(unquote(urlsplit(address).path)), have)
            return
        import httpx

        headers = {"range": f"bytes={have}-"} if have else {}
        auth = servers.auth(address)
        try:
            with client.stream("GET", without_userinfo(address), headers=headers, auth=auth) as response:
                self._check(response, address, part)
                offset = have if response.status_code == 206 and _starts_at(response) == have else 0
                length = response.headers.get("content-length", "")
                if self.size is not None and length.isdigit() and offset + int(length) != self.size:
                    raise _WrongBytesError(f"{hide(address)} has {offset + int(length):,} bytes")
                for chunk in response.iter_raw():  # as it comes: what a broken line gave is kept
                    yield offset, chunk
                    offset += len(chunk)
        except httpx.TransportError as error:
            raise _RetryError(f"{urlsplit(address).hostname}: {error or type(error).__name__}") from error
        except httpx.HTTPError as error:
            raise FetchError(f"{self.name} can't be fetched from {hide(address)}: {error}.", "") from error

    def _check(self, response: httpx.Response, address: str, part: BinaryIO) -> None:
        status = response.status_code
        if status in (200, 206):
            return
        shown = hide(address)
        if status == 416:  # the file there is shorter than the lock says, or the part is of another one
            part.truncate(0)
            raise _WrongBytesError(f"{shown} has no more bytes")
        if status in _WORTH_A_RETRY:
            raise _RetryError(f"{shown} answers {status}", _retry_after(response))
        if status in (401, 403, 407):
            raise FetchError(
                f"{shown} answers {status}: it wants credentials, or others than it got.",
                "Put them into ~/.netrc, pip.conf or .condarc and run the same command again.",
            )
        raise FetchError(
            f"{shown} answers {status}: {self.name} isn't there.",
            "If it was withdrawn, `./invoke lock --upgrade` chooses another; otherwise try again later.",
        )

    def _given_up(self, problem: _RetryError) -> FetchError | IntegrityError:
        if isinstance(problem, _WrongBytesError):
            return IntegrityError(
                f"{self.name} isn't what the lock says: expected {self._expected}, but {problem}.",
                "Find out who changed it: a proxy, a mirror or the publisher. Or lock again.",
            )
        return FetchError(
            f"{self.name} couldn't be fetched after {_TRIES} tries: {problem}.",
            "Check the network and run the same command again: it continues where this one stopped.",
        )

    @property
    def _expected(self) -> str:
        size = f"{self.size:,} bytes with " if self.size is not None else ""
        return f"{size}the sha256 {self.sha256[:16]}…"


class _WrongBytesError(_RetryError):
    """The bytes that came aren't those of the lock."""


def _read_file(path: Path, have: int) -> Iterator[tuple[int, bytes]]:
    try:
        source = path.open("rb")
    except OSError as error:
        raise FetchError(
            f"{path} can't be read: {error.strerror}.", "Make it readable, or lock again."
        ) from error
    with source:
        source.seek(have)
        while chunk := source.read(_CHUNK):
            yield have, chunk
            have += len(chunk)


def _starts_at(response: httpx.Response) -> int:
    """Return where a partial answer starts (RFC 9110, section 14.4), -1 if it doesn't say."""
    unit, _, rest = response.headers.get("content-range", "").partition(" ")
    start = rest.partition("-")[0]
    return int(start) if unit == "bytes" and start.isdigit() else -1


def _retry_after(response: httpx.Response) -> float:
    """Return the seconds that the server asks to wait (RFC 9110, section 10.2.3), 0 if it doesn't say."""
    value = response.headers.get("retry-after", "")
    if value.isdigit():
        return float(value)
    try:
        until: float = email.utils.parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError):
        return 0.0
    return max(0.0, until - time.time())
