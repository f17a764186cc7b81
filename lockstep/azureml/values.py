"""What passes between Lockstep and a workspace, in no SDK's words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lockstep.errors import SettingsError

ENDED = ("Completed", "Failed", "Canceled")


@dataclass(frozen=True)
class Target:
    """A workspace's coordinates, and where they were found (for people)."""

    name: str
    subscription: str
    resource_group: str
    found_in: str


@dataclass(frozen=True)
class OwnImage:
    """An environment that is an image as it is. `reference` names it by digest."""

    reference: str
    image_id: str
    lock_hash: str


@dataclass(frozen=True)
class Curated:
    """One of Azure's own environments, `AzureML-…`; `version` None is the newest."""

    name: str
    version: str | None = None


def read_curated(text: str) -> Curated:
    """Return what `--environment` names: `NAME` or `NAME:VERSION`. Raises SettingsError."""
    name, colon, version = text.strip().partition(":")
    if not name or (colon and not version) or ":" in version:
        raise SettingsError(
            f"{text!r} names no environment.", "Write it as NAME or NAME:VERSION, such as AzureML-Minimal:3."
        )
    return Curated(name, version or None)


@dataclass(frozen=True)
class BuiltRemotely:
    """An environment that the service builds from a conda file, or from pip requirements."""

    path: Path
    requirements: bool = False


Choice = OwnImage | Curated | BuiltRemotely
"""Every way to an environment."""


@dataclass(frozen=True)
class EnvironmentVersion:
    """An environment that the workspace has. `image` is "" where the service builds or chose it."""

    name: str
    version: str
    image: str = ""


@dataclass(frozen=True)
class RemoteData:
    """A folder in the workspace's default datastore. `bytes_sent` is 0 where it was there already."""

    datastore: str
    path: str
    files: int = 0
    bytes_sent: int = 0


@dataclass(frozen=True)
class SubmittedRun:
    """A run that the service took. `portal` is the address of its page."""

    id: str
    experiment: str
    portal: str


@dataclass(frozen=True)
class RunState:
    """How a run is at the moment. `logs` maps names of logs to addresses that need no sign-in."""

    id: str
    experiment: str
    status: str
    portal: str = ""
    script: str = ""
    started: str | None = None
    ended: str | None = None
    error: str = ""
    warnings: tuple[str, ...] = ()
    logs: tuple[tuple[str, str], ...] = ()
    tags: tuple[tuple[str, str], ...] = ()

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED


Metrics = dict[str, Any]
"""Name -> value, or a list of values in the order of logging."""
