"""Builds: which images this checkout built, newest last, so that `image` can say what changed."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

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
        return tuple(Build(**each) for each in json.loads((state / "builds.json").read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return ()


def remember(state: Path, build: Build) -> None:
    """Put a build last; one that is there already moves. Written in one step."""
    kept = [each for each in builds(state) if each != build][-_KEPT + 1 :]
    state.mkdir(parents=True, exist_ok=True)
    part = state / f"builds.json.{os.getpid()}"
    part.write_text(json.dumps([asdict(each) for each in (*kept, build)], indent=1) + "\n")
    part.replace(state / "builds.json")
