"""Artifacts: the files that a run leaves, kept as plain files, so that MLflow's pages show the same ones."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import Any

from lockstep.root import Root
from lockstep.workspace.fault import missing
from lockstep.workspace.folder import inside
from lockstep.workspace.state import iso, now

RUN_ORIGIN = "ExperimentRun"


def stored(root: Root, path: str) -> os.stat_result:
    """Return the facts of the artifact in a container, or refuse with 404."""
    facts = _facts(root, inside(path))
    if facts is None:
        raise missing(f"The artifact {path!r}")
    return facts


def listed(root: Root, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Yield path and facts of the artifact called `prefix`, or of those below it, sorted. Links are left out."""
    name = inside(prefix) if (prefix := prefix.strip("/")) else ""
    facts = _facts(root, name) if name else None
    if facts is not None:
        yield name, facts
    else:
        yield from root.files(name)


def entries(root: Root, path: str = "") -> list[tuple[str, int | None]]:
    """Return path and size of what is directly in a folder; a folder's size is None."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return [
            (name, facts.st_size if stat.S_ISREG(facts.st_mode) else None)
            for name, facts in root.children(inside(path) if path else "")
        ]
    return []


def _facts(root: Root, name: str) -> os.stat_result | None:
    """Return the facts of a regular file, or None where there is none."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        facts = root.stat(name)
        return facts if stat.S_ISREG(facts.st_mode) else None
    return None


def artifact_document(
    origin: str, container: str, path: str, modified: float | None = None
) -> dict[str, Any]:
    """Return the artifact as Azure ML writes it."""
    return {
        "artifactId": f"{origin}/{container}/{path}",
        "origin": origin,
        "container": container,
        "path": path,
        "createdTime": iso(modified) if modified else now(),
    }
