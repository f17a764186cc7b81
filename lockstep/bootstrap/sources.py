"""The release of a machine and the sources that its apt has; nothing is asked of a network."""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from lockstep.bootstrap.passwords import with_password
from lockstep.errors import LockstepError

KEYRINGS = {
    "debian": "/usr/share/keyrings/debian-archive-keyring.gpg",
    "ubuntu": "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
}
ELSEWHERE = (
    "Make a base image registry and a conda channel reachable (channel_mirrors in invoke.yaml, .condarc), "
    "or run `./invoke lock` on a Debian or Ubuntu machine and commit the lock."
)


def release_of_machine() -> tuple[str, str]:
    """Return ("debian" | "ubuntu", codename) of this machine."""
    try:
        facts = platform.freedesktop_os_release()
    except OSError:
        facts = {}
    system, codename = facts.get("ID", ""), facts.get("VERSION_CODENAME", "")
    if system not in KEYRINGS or not codename or not shutil.which("apt-get"):
        raise LockstepError(
            "No base image or conda channel can be reached, and making them from Debian's packages needs a "
            f"Debian or Ubuntu release with apt; this machine runs {facts.get('PRETTY_NAME', 'another')}.",
            ELSEWHERE,
        )
    if platform.machine() != "x86_64":
        raise LockstepError(
            f"Making a base image from Debian's packages needs an x86_64 machine, not {platform.machine()}.",
            ELSEWHERE,
        )
    return system, codename


def fingerprint_of_sources() -> str:
    """Return a fingerprint of what apt on this machine reads its sources from."""
    found = hashlib.sha256()
    for path in [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]:
        if path.is_file():
            found.update(f"{path}\n".encode() + path.read_bytes())
    return found.hexdigest()


def with_passwords(uris: Sequence[str], entries: Sequence[str]) -> tuple[str, ...]:
    """Return the archive's roots with apt's passwords; `entries` are the lines (`file:n`) that name them."""
    files = [Path(entry.rpartition(":")[0]) for entry in dict.fromkeys(entries)]
    return tuple(with_password(uri, files, Path("/etc/apt")) for uri in dict.fromkeys(uris))


def uris_behind(site: str) -> list[str]:
    """Return the plain URIs behind an apt source: itself, or the entries of the mirror list that it names."""
    if not site.startswith("mirror+file:"):
        return [site.rstrip("/")] if urlsplit(site).scheme in ("http", "https", "file", "copy") else []
    try:
        lines = Path(urlsplit(site).path).read_text().splitlines()
    except OSError:
        return []
    entries = [line.split()[0].rstrip("/") for line in lines if line.strip() and not line.startswith("#")]
    return [entry for entry in entries if urlsplit(entry).scheme in ("http", "https", "file")]
