"""Names of images: `debian:12-slim`, `localhost:5000/team/env`, `registry.example/env@sha256:…`; one reading."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lockstep.errors import SettingsError

_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*")
_HOST = re.compile(r"(?:[a-zA-Z0-9-]+(?:\.[a-zA-Z0-9-]+)*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class ImageName:
    """What a name says; `host`, `tag` and `digest` are "" where it has none."""

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def place(self) -> str:
        """Host and repository, as docker calls a repository: `localhost:5000/team/env`."""
        return f"{self.host}/{self.repository}" if self.host else self.repository


def parse_image_name(text: str) -> ImageName:
    """Return what a name says, by docker's rule: what is before the first `/` is a host if it has a dot or colon.

    Raises SettingsError if it can't be an image's name.
    """
    rest, at, digest = text.strip().partition("@")
    host, slash, repository = rest.partition("/")
    if not slash or not (set(host) & set(".:") or host == "localhost"):
        host, repository = "", rest
    repository, colon, tag = repository.partition(":")
    right = (
        (not host or _HOST.fullmatch(host))
        and _REPOSITORY.fullmatch(repository)
        and (not colon or _TAG.fullmatch(tag))
        and (not at or _DIGEST.fullmatch(digest))
    )
    if not right:
        raise SettingsError(
            f"{text!r} isn't an image's name.",
            "Write it like `debian:12-slim` or `registry.example/team/env:v1`.",
        )
    return ImageName(host, repository, tag, digest)


def parse_repository(text: str) -> ImageName:
    """Return a name that may have a tag but no digest: what an image is given or pushed to. Raises SettingsError."""
    name = parse_image_name(text)
    if name.digest:
        raise SettingsError(
            f"{text!r} names an image by digest, which nothing can be given.", f"Write {name.place!r}."
        )
    return name
