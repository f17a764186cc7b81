"""pylock.toml (PEP 751): what uv writes of a solution, and reads as the versions to keep."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packaging.version import Version

from lockstep.lock.locked import LockedPackage

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore] # installed on 3.10 alone

FAR = datetime.timedelta(days=365)
"""How much older than the newest release that fits a release may be before something is said."""


@dataclass(frozen=True)
class Release:
    """A version and the day when its wheels were published; None where the index doesn't say."""

    version: Version
    day: datetime.date | None

    def __str__(self) -> str:
        return f"{self.version} of {self.day}" if self.day else str(self.version)

    def is_far_behind(self, newest: Release) -> bool:
        """Tell whether more than a year lies between; by the first number where days aren't known."""
        if self.version >= newest.version:
            return False
        if self.day and newest.day:
            return newest.day - self.day > FAR
        return self.version.release[0] < newest.version.release[0]


def packages(pylock: str) -> list[Mapping[str, Any]]:
    """Return the entries of a pylock's text."""
    return list(tomllib.loads(pylock).get("packages", []))


def releases(pylock: str) -> dict[str, Release]:
    """Return the releases that a pylock's text holds, by name; those that a URL names aren't among them."""
    return {
        entry["name"]: Release(Version(entry["version"]), _day(entry))
        for entry in packages(pylock)
        if "version" in entry and "archive" not in entry
    }


def preferences(keep: Sequence[LockedPackage]) -> str:
    """Return a pylock of names and versions: uv keeps what its output file holds, where it can."""
    entries = [f'[[packages]]\nname = "{package.name}"\nversion = "{package.version}"\n' for package in keep]
    return 'lock-version = "1.0"\ncreated-by = "lockstep"\n' + ("".join(entries) or "packages = []\n")


def _day(entry: Mapping[str, Any]) -> datetime.date | None:
    moments = [wheel["upload-time"] for wheel in entry.get("wheels", []) if "upload-time" in wheel]
    return min(moments).date() if moments else None
