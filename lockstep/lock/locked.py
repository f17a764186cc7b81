"""What a Lock is made of: packages, the base image, Debian packages, all by sha256. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit

BOOTSTRAP_SCHEME = "lockstep-bootstrap"
"""The scheme of URLs of packages that Lockstep makes itself: `lockstep-bootstrap://linux-64/<filename>`."""


@dataclass(frozen=True)
class LockedPackage:
    """One conda package or one wheel. `sha256` is hex, `size` is in bytes; a URL never holds credentials.

    `md5` and `build` are for conda packages. `dependencies` are pairs of a name and a constraint
    (`""` for none), sorted by name. They tell why a package is there: nothing is resolved from them.
    """

    name: str
    version: str
    manager: Literal["conda", "pip"]
    url: str
    sha256: str
    size: int
    md5: str | None = None
    build: str | None = None
    dependencies: tuple[tuple[str, str], ...] = ()

    @property
    def filename(self) -> str:
        """The file name that the package was published under, such as `six-1.17.0-py2.py3-none-any.whl`."""
        return unquote(urlsplit(self.url).path.rsplit("/", 1)[-1])

    @property
    def key(self) -> str:
        """What a package is called within one lock: `conda/numpy`, `pip/torch`."""
        return f"{self.manager}/{self.name}"


@dataclass(frozen=True)
class LockedBase:
    """The base image: the name that a person wrote, and the digest of the manifest that it means."""

    reference: str
    digest: str
    origin: Literal["registry", "bootstrap"] = "registry"


@dataclass(frozen=True)
class LockedDeb:
    """One Debian package; `path` is relative to the archive's root (`pool/main/…`), `sha256` is hex."""

    name: str
    version: str
    path: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Bootstrap:
    """What base image and channel were made from, so that another machine makes the same ones.

    `sources` are one-line apt sources without credentials; `epoch` is SOURCE_DATE_EPOCH in seconds.
    """

    sources: tuple[str, ...]
    epoch: int
    base_debs: tuple[LockedDeb, ...] = ()
    channel_debs: tuple[LockedDeb, ...] = ()
