"""Credentials that other programs keep for us: ~/.netrc and the keyring. They are read when they are needed.

netrc has no scheme, so its entry for a host counts for that host alone; one that is written `host:port` for
that port alone. Its `default` entry isn't used: it would send a password to whatever server a URL names.
"""

from __future__ import annotations

import functools
import netrc
import os
import shutil
import subprocess
import threading
from pathlib import Path
from urllib.parse import urlsplit

from lockstep.redaction import remember

_one_at_a_time = threading.Lock()
_SECONDS = 60  # a keyring may have to ask a person to unlock it

Login = tuple[str, str]
"""User and password."""


def origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of a URL: credentials for one origin are never sent to another (RFC 6454).

    >>> origin("https://me:secret@packages.example/simple/")
    ('https', 'packages.example', 443)
    """
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return parts.scheme, (parts.hostname or "").lower(), port


def of_netrc(host: str, port: int | None) -> Login | None:
    """Return what `~/.netrc` (or the file that NETRC names) has for a host, its port's entry first."""
    path = os.environ.get("NETRC") or str(Path.home() / ".netrc")
    try:
        entries = netrc.netrc(path).hosts
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return None
    found = entries.get(f"{host}:{port}") if port else None
    found = found or (entries.get(host) if host != "default" else None)
    if found is None:
        return None
    remember(found[2] or "", found[0])
    return found[0], found[2] or ""


def of_keyring(url: str, host: str, user: str) -> Login | None:
    """Return what the program `keyring` has for an index, asked as pip and uv ask: by its URL, then its host.

    `user` may be "" where the keyring knows it too (`--mode creds`, keyring 25). It is asked once a process.
    """
    with _one_at_a_time:
        return _of_keyring(url, host, user)


@functools.cache
def _of_keyring(url: str, host: str, user: str) -> Login | None:
    if not shutil.which("keyring"):
        return None
    for service in (url, host):
        command = ["get", service, user] if user else ["--mode", "creds", "get", service]
        try:
            done = subprocess.run(
                ["keyring", *command],
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        lines = done.stdout.splitlines()
        if done.returncode == 0 and len(lines) >= (1 if user else 2):
            login = (user, lines[0]) if user else (lines[0], lines[1])
            remember(login[1], login[0])
            return login
    return None
