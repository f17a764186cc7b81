"""Redaction: the one place that knows this process's secrets, and what is printed or raised passes it.

Whoever reads a credential (pip.conf, .condarc, netrc, a keyring, docker's config, apt's, a proxy's URL) calls
`remember`. Errors pass `redact` when they are made, all that tasks write on standard output and standard error
passes it too.
Independently of what is known, user and password of any URL and conda's `/t/<token>/` are always left out.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TextIO
from urllib.parse import quote, quote_plus, unquote

HIDDEN = "****"
SHORTEST = 5
"""A shorter secret isn't looked for by itself, as it would be found in ordinary words; in a URL it is hidden."""

USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
_BROKEN_USERINFO = re.compile(r"(?<=://)[^\s/@:]+:(?!\d+[/\s])[^\s@]*@")  # a password with a bare / or #
_NO_SCHEME = re.compile(r"(?<![\w/:@.%-])[\w.%+-]+:[^\s/@:]+@(?=[\w-]+\.|localhost|\[)")
_CONDA_TOKEN = re.compile(r"(https?://[^\s/]+(?:/[^\s/]+)*?/t/)[^/\s]+(?=/)")
_USER_OF_URL = re.compile(r"^(?:[a-zA-Z][\w+.-]*://)?([^\s/@:]*):(.*)@")

_lock = threading.Lock()
_known: set[str] = set()
_pattern: re.Pattern[str] | None = None


def remember(password: str, user: str = "") -> None:
    """Keep a secret out of everything that is printed or raised from now on, however it is encoded.

    `user` is who it belongs to: `user:password` in base64 is what HTTP's Basic scheme sends.
    """
    global _pattern
    forms = {base64.b64encode(f"{user}:{password}".encode()).decode()} if user else set()
    if len(password) >= SHORTEST:
        forms |= set(_spellings(password))
    with _lock:
        if password and not forms <= _known:
            _known.update(forms)
            longest_first = sorted(_known, key=lambda form: (-len(form), form))
            _pattern = re.compile("|".join(map(_escaped, longest_first)))


def remember_url(url: str) -> None:
    """Keep the password and conda's token of a URL, which may lack its scheme, out of what is printed."""
    if found := _USER_OF_URL.match(url):
        remember(unquote(found[2]), unquote(found[1]))
        remember(found[2])
    elif found := re.match(r"^[a-zA-Z][\w+.-]*://([^\s/@:]+)@", url):
        remember(unquote(found[1]))  # a token in the user's place
    if found := re.search(r"/t/([^/\s]+)(?:/|$)", url):
        remember(found[1])


def redact(text: str) -> str:
    """Return a text without secrets: those that are known, and whatever a URL holds before its host."""
    if _pattern is not None:
        text = _pattern.sub(HIDDEN, text)
    text = _BROKEN_USERINFO.sub("", USERINFO.sub("", text))
    return _NO_SCHEME.sub("", _CONDA_TOKEN.sub(rf"\1{HIDDEN}", text))


def _spellings(secret: str) -> Iterator[str]:
    yield secret
    yield from (quote(secret, safe=""), quote(secret), quote_plus(secret))
    yield json.dumps(secret)[1:-1]
    yield repr(secret)[1:-1]
    yield base64.b64encode(secret.encode()).decode()


def _escaped(form: str) -> str:
    """Return a pattern for a spelling, in which the digits of percent-codes may be small or capital."""
    return re.sub(r"%([0-9A-Fa-f]{2})", r"%(?i:\1)", re.escape(form))


class _Redacting:
    """A text stream whose writes pass `redact`; everything else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class RedactedLines(logging.Formatter):
    """Formats log records, tracebacks included, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def guard_output() -> None:
    """Let nothing secret out on standard output and standard error from now on, tracebacks included."""
    if not isinstance(sys.stdout, _Redacting):
        sys.stdout = _Redacting(sys.stdout)
    if not isinstance(sys.stderr, _Redacting):
        sys.stderr = _Redacting(sys.stderr)
