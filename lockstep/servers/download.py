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
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote, urlsplit

from lockstep.errors import FetchError, IntegrityError
from lockstep.home import disk_full_in_words
from lockstep.servers.servers import hide, without_userinfo
from lockstep.servers.transfers import Session, StoppedError

if TYPE_CHECKING:
    import httpx

_CHUNK = 1 << 20
_TRIES = 5
_LONGEST_WAIT = 60.0
_WORTH_A_RETRY = frozenset({408, 425, 429, 500, 502, 503, 504})


class _RetryError(Exception):
    """What went wrong may go right in a while; `wait` is the seconds that the server asked for."""

    def __init__(self, reason: str, wait: float = 0.0, *, encoded: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        self.is_encoded = encoded


@dataclass
class _Answer:
    """A server's answer as far as it is known; `decodes` says to undo its Content-Encoding, if it has one.

    We ask for none (`identity`). A server that encodes all the same may mean that the file is what comes out
    of it, or (Apache with a .tar.gz) that the file is what it sends: the latter is tried first.
    """

    address: str
    part: BinaryIO
    decodes: bool
    is_encoded: bool = False

    def __str__(self) -> str:
        return hide(self.address)


@dataclass(frozen=True)
class Download:
    """What to fetch: `addresses` are URLs to try in turn (they may hold credentials), `size` is in bytes."""

    name: str
    addresses: Sequence[str] = field(repr=False)
    sha256: str
    size: int | None
    target: Path

    def run(self, session: Session) -> None:
        """Bring the file to `target`. Raises FetchError, IntegrityError or DiskFullError; the part stays."""
        with disk_full_in_words(self.target.parent), self._locked_part() as part:
            if part is None:
                return
            attempt = wrong = 0
            decode = False
            while True:
                before = part.seek(0, 2)
                try:
                    self._try_each_address(part, session, decode)
                    break
                except _RetryError as problem:
                    attempt = 1 if part.seek(0, 2) > before else attempt + 1
                    wrong += isinstance(problem, _WrongBytesError)
                    decode = decode or problem.is_encoded
                    if attempt >= _TRIES or wrong > 1:
                        raise self._given_up(problem) from problem
                    wait = problem.wait or 0.5 * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)  # noqa: S311
                    session.pause(f"{problem}", min(wait, _LONGEST_WAIT), attempt + 1, _TRIES)
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

    def _try_each_address(self, part: BinaryIO, session: Session, decode: bool) -> None:
        problems: list[FetchError | _RetryError] = []
        for address in self.addresses:
            try:
                with session.waiting_for(urlsplit(address).hostname or address):
                    self._transfer(address, part, session, decode)
                return
            except (FetchError, _RetryError) as problem:
                problems.append(problem)
        raise next((problem for problem in problems if isinstance(problem, _RetryError)), problems[-1])

    def _transfer(self, address: str, part: BinaryIO, session: Session, decode: bool) -> None:
        """Append what is missing to the part and check it; a part with wrong bytes begins anew."""
        digest = hashlib.sha256()
        part.seek(0)
        if decode:
            part.truncate()  # an encoding can't be continued in its middle
        while chunk := part.read(_CHUNK):
            digest.update(chunk)
        have = part.tell()
        answer = _Answer(address, part, decode)
        session.task.advance(have)
        try:
            if self.size is None or have != self.size:
                for offset, chunk in self._chunks(answer, session):
                    if session.stop.is_set():
                        raise StoppedError
                    session.heard()
                    if offset != have:  # the server can't continue: it sends everything again
                        part.truncate(0)
                        session.task.advance(-have)
                        digest, have = hashlib.sha256(), 0
                    if self.size is not None and have + len(chunk) > self.size:
                        part.truncate(0)
                        raise _WrongBytesError(f"{answer} sent more than that", encoded=answer.is_encoded)
                    part.write(chunk)
                    digest.update(chunk)
                    have += len(chunk)
                    session.task.advance(len(chunk))
        finally:
            part.flush()
            if digest.hexdigest() != self.sha256:
                session.task.advance(-have)
        if self.size is not None and have < self.size and not answer.is_encoded:
            raise _RetryError(f"{answer} ended after {have:,} of {self.size:,} bytes")
        if digest.hexdigest() != self.sha256:
            part.truncate(0)
            raise _WrongBytesError(
                f"{answer} sent {have:,} bytes with the sha256 {digest.hexdigest()[:16]}…",
                encoded=answer.is_encoded,
            )

    def _chunks(self, answer: _Answer, session: Session) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, bytes) from the part's end on, or from 0 where the server can't continue."""
        have = answer.part.tell()
        address = answer.address
        if address.startswith("file:"):
            yield from _read_file(Path(unquote(urlsplit(address).path)), have)
            return
        import httpx

        headers = {"range": f"bytes={have}-"} if have else {}
        auth = session.servers.auth(address)
        try:
            url = without_userinfo(address)
            with session.client.stream("GET", url, headers=headers, auth=auth) as response:
                session.heard()
                self._check(response, address, answer.part)
                encoding = response.headers.get("content-encoding", "identity").lower()
                answer.is_encoded = encoding not in ("", "identity")
                offset = have if response.status_code == 206 and _starts_at(response) == have else 0
                length = response.headers.get("content-length", "")
                if (
                    self.size is not None
                    and length.isdigit()
                    and offset + int(length) != self.size
                    and not answer.decodes
                ):
                    raise _WrongBytesError(
                        f"{answer} has {offset + int(length):,} bytes", encoded=answer.is_encoded
                    )
                # undecoded and unbuffered by default: what a broken line gave is kept
                for chunk in response.iter_bytes() if answer.decodes else response.iter_raw():
                    yield offset, chunk
                    offset += len(chunk)
        except httpx.TransportError as error:
            raise _RetryError(f"{urlsplit(address).hostname}: {error or type(error).__name__}") from error
        except httpx.TooManyRedirects as error:
            raise FetchError(
                f"{hide(address)} sends requests for {self.name} round in a circle.",
                "Is it the address of a page that wants a sign-in, or a mirror that sends back to where it was "
                "asked from? Correct the index, channel or mirror setting, or the proxy's.",
            ) from error
        except httpx.DecodingError as error:
            raise _WrongBytesError(f"{answer} can't be decoded: {error}") from error
        except httpx.HTTPError as error:
            raise FetchError(
                f"{self.name} can't be fetched from {hide(address)}: {error}.",
                "Correct the index, channel or mirror setting that names it.",
            ) from error

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
