"""Artifacts: the files that a run leaves, kept as plain files, so that MLflow's pages show the same ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lockstep.workspace.fault import missing
from lockstep.workspace.folder import Folder
from lockstep.workspace.state import iso, now

RUN_ORIGIN = "ExperimentRun"


def stored(folder: Folder, origin: str, container: str, path: str) -> Path:
    """Return where the artifact lies, or refuse with 404."""
    file = folder.artifact(origin, container, path)
    if not file.is_file():
        raise missing(f"The artifact {path!r}")
    return file


def listed(
    folder: Folder, origin: str, container: str, prefix: str = ""
) -> Iterator[tuple[str, os.stat_result]]:
    """Yield path and facts of the artifact called `prefix`, or of those below it, sorted. Links are left out."""
    root = folder.artifacts(origin, container)
    prefix = prefix.strip("/")
    start = folder.artifact(origin, container, prefix) if prefix else root
    if start.is_file() and not start.is_symlink():
        yield prefix, start.stat()
        return
    for parent, folders, names in os.walk(start):
        folders.sort()
        for name in sorted(names):
            file = Path(parent) / name
            if file.is_file() and not file.is_symlink():
                yield file.relative_to(root).as_posix(), file.stat()


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
