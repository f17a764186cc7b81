"""Builds: which images this checkout built, newest last, so that `image` can say what changed."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

from lockstep.damage import is_there

_KEPT = 10


@dataclass(frozen=True)
class Build:
    """One build: the image's ID, its name in the engine, the lock it follows from."""

    image_id: str
    name: str
    lock_hash: str


def builds(state: Path) -> tuple[Build, ...]:
    """Return the builds of the checkout whose state folder this is, oldest first; at most ten."""
    try:
        found = tuple(Build(**each) for each in json.loads((state / "builds.json").read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):  # what was built before is forgotten, no more
        return ()
    return found if all(isinstance(x, str) for each in found for x in astuple(each)) else ()


def remember(state: Path, build: Build) -> None:
    """Put a build last; one that is there already moves. Written in one step."""
    kept = [each for each in builds(state) if each != build][-_KEPT + 1 :]
    state.mkdir(parents=True, exist_ok=True)
    part = state / f"builds.json.{os.getpid()}"
    part.write_text(json.dumps([asdict(each) for each in (*kept, build)], indent=1) + "\n")
    is_there(state / "builds.json")  # a folder in its place would be in the way
    part.replace(state / "builds.json")
