"""What an image's name means: `debian:12-slim`, `127.0.0.1:5000/team/env:v1`, `name@sha256:…`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lockstep.errors import SettingsError
from lockstep.servers import is_loopback

_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*")
_HOST = re.compile(r"(?:[a-zA-Z0-9-]+(?:\.[a-zA-Z0-9-]+)*|\[[0-9a-fA-F:]+\])(?::\d+)?")
_TAG = re.compile(r"\w[\w.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Reference:
    """A repository in a registry, and a tag or a digest in it (the digest wins)."""

    host: str
    repository: str
    tag: str = "latest"
    digest: str = ""

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}" + (f"@{self.digest}" if self.digest else f":{self.tag}")

    @property
    def wanted(self) -> str:
        """What to ask the registry for: the digest, else the tag."""
        return self.digest or self.tag

    @property
    def url(self) -> str:
        """The repository's address. Plain HTTP is for loopback alone, unless that turns out to want TLS."""
        from docker.auth import INDEX_NAME

        host = f"registry-1.{INDEX_NAME}" if self.host == INDEX_NAME else self.host
        return f"{'http' if is_loopback(host) else 'https'}://{host}/v2/{self.repository}"


def parse_reference(text: str) -> Reference:
    """Return what a name means, with docker's own rule for names without a registry or a tag.

    Raises SettingsError if it can't be an image's name.
    """
    from docker.auth import INDEX_NAME

    rest, _, digest = text.strip().partition("@")
    host, slash, repository = rest.partition("/")
    if not slash or not (set(host) & set(".:") or host == "localhost"):
        host, repository = INDEX_NAME, rest
    repository, _, tag = repository.partition(":")
    if host == INDEX_NAME and "/" not in repository:
        repository = f"library/{repository}"
    tag = tag or "latest"
    right = (
        _HOST.fullmatch(host)
        and _REPOSITORY.fullmatch(repository)
        and _TAG.fullmatch(tag)
        and "@" not in digest
    )
    if not right or (digest and not _DIGEST.fullmatch(digest)):
        raise SettingsError(
            f"{text!r} isn't an image's name.",
            "Write it like `debian:12-slim` or `registry.example/team/env:v1`.",
        )
    return Reference(host, repository, tag, digest)
