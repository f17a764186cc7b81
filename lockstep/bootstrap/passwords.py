"""The passwords that this machine's apt has for its archives, so that a fetch of ours gets in too.

They are read when they are needed and kept nowhere. Source: apt_auth.conf(5), sources.list(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, urlsplit

from lockstep.redaction import remember, remember_url
from lockstep.servers import hide

_WITH_USER = re.compile(r"https?://[^/@\s]+@[^\s\]]+")
_ENTRY = re.compile(r"\bmachine\s+(\S+)\s+login\s+(\S+)\s+password\s+(\S+)")


def with_password(uri: str, sources: Iterable[Path], folder: Path) -> str:
    """Return an archive's URI with user and password if apt has them, else as it is.

    `sources` are the files that name archives, `folder` is apt's own (/etc/apt).
    """
    for path in sources:
        for known in _WITH_USER.findall(_text(path)):
            if hide(known).rstrip("/") == uri:
                remember_url(known)
                return str(known).rstrip("/")
    for path in [folder / "auth.conf", *sorted((folder / "auth.conf.d").glob("*.conf"))]:
        for machine, user, password in _ENTRY.findall(_text(path)):
            if _is_for(machine, uri):
                remember(password, user)
                return uri.replace("://", f"://{quote(user, safe='')}:{quote(password, safe='')}@", 1)
    return uri


def _is_for(machine: str, uri: str) -> bool:
    """Say whether an entry covers a URI: `host[:port][/path]`, for https unless it names another scheme."""
    parts = urlsplit(uri)
    scheme, _, place = machine.rpartition("://")
    if parts.scheme != (scheme or "https"):
        return False
    host, slash, path = place.partition("/")
    if host not in (parts.netloc, parts.hostname):
        return False
    return not slash or f"{parts.path}/".startswith(f"/{path}")


def _text(path: Path) -> str:
    """Return a file's text without its comments, nothing if this user may not read it."""
    try:
        return re.sub(r"^\s*#.*$", "", path.read_text(), flags=re.MULTILINE)
    except OSError:
        return ""
