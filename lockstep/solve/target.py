"""Target: the image's Python, processor and C library, and which wheel fits them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from packaging import tags
from packaging.utils import parse_wheel_filename

from lockstep.errors import SolveError
from lockstep.spec import Spec

_NEWEST_OF_UV = 40


def best_wheel(entry: Mapping[str, Any], supported: Sequence[tags.Tag]) -> Mapping[str, Any]:
    """Return the wheel that pip would take: the best tag, then the highest build (PEP 425, PEP 427)."""
    if archive := entry.get("archive"):
        return dict(archive)
    rank = {tag: number for number, tag in enumerate(supported)}
    best: tuple[int, Any, Mapping[str, Any]] | None = None
    for wheel in entry.get("wheels", []):
        filename = (
            wheel.get("name")
            or str(wheel.get("url") or wheel.get("path")).partition("#")[0].rsplit("/", 1)[-1]
        )
        _, _, build, offered = parse_wheel_filename(unquote(filename))
        ranks = [rank[tag] for tag in offered if tag in rank]
        if ranks and (best is None or (-min(ranks), build) > (-best[0], best[1])):
            best = (min(ranks), build, wheel)
    if best is None:
        raise SolveError(
            f"{entry['name']} {entry.get('version', '')} has no wheel for this Python and C library.",
            "Choose another version, take the package from a conda channel, or publish a wheel of it.",
        )
    return best[2]


def supported_tags(spec: Spec, python: str) -> list[tags.Tag]:
    """Return the wheel tags that the image supports, best first."""
    version = tuple(int(part) for part in python.split(".")[:2])
    machine = _machine(spec)
    newest = _glibc(spec)
    oldest = 5 if machine in ("x86_64", "i686") else 17
    legacy = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
    platforms: list[str] = []
    for minor in range(newest, oldest - 1, -1):
        platforms.append(f"manylinux_2_{minor}_{machine}")
        if minor in legacy:
            platforms.append(f"{legacy[minor]}_{machine}")
    platforms.append(f"linux_{machine}")
    interpreter = f"cp{version[0]}{version[1]}"
    return [
        *tags.cpython_tags(version, platforms=platforms),
        *tags.compatible_tags(version, interpreter=interpreter, platforms=platforms),
    ]


def uv_platform(spec: Spec) -> str:
    """Return the nearest platform that uv knows; `best_wheel` has the last word on the C library."""
    glibc = _glibc(spec)
    if glibc < 28:
        return f"{_machine(spec)}-manylinux_2_17"
    return f"{_machine(spec)}-manylinux_2_{28 if glibc < 31 else min(glibc, _NEWEST_OF_UV)}"


def _machine(spec: Spec) -> str:
    return {"linux-64": "x86_64", "linux-aarch64": "aarch64"}[spec.platform]


def _glibc(spec: Spec) -> int:
    """Return the minor version of glibc that the image has: 36 for 2.36."""
    version = dict(spec.virtual_packages).get("__glibc", "2.17").partition("=")[0]
    return int(version.split(".")[1])
