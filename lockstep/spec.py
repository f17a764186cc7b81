"""Spec: what a person wrote, normalised, as an immutable value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class PipOptions:
    """Options of a `pip:` section or a requirements file. URLs are as written; they never reach the lock."""

    index_url: str | None = None
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Spec:
    """A normalised spec: two files that mean the same give equal values.

    `conda` are MatchSpecs, `pip` are requirement lines; both are sorted. `sources` and `name` are not
    part of the identity.
    """

    name: str
    channels: tuple[str, ...]
    conda: tuple[str, ...]
    pip: tuple[str, ...]
    pip_options: PipOptions
    variables: tuple[tuple[str, str], ...]
    dockerfile: str
    base: str
    platform: str
    virtual_packages: tuple[tuple[str, str], ...]
    exclude_newer: str | None = None
    sources: tuple[str, ...] = field(default=(), compare=False)

    @cached_property
    def hash(self) -> str:
        """The identity: hex sha256 of the normalised content."""
        content = asdict(self)
        del content["name"], content["sources"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_spec(
    path: Path,
    *,
    dockerfile: Path,
    base: str,
    platform: str = "linux-64",
    virtual_packages: Mapping[str, str] | None = None,
    exclude_newer: str | None = None,
) -> Spec:
    """Read an environment.yml, a requirements.txt or what `conda env export` wrote."""
    raise NotImplementedError
