"""Revision: which commit of the user's repository the spec came from, for the lock and the image's label."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path


def revision_of(paths: Sequence[Path]) -> str | None:
    """Return the last git commit that touched the files, `<sha>-dirty` if they changed since (as conda-lock does).

    None where they aren't under git, or git isn't installed.
    """
    names = [str(path) for path in paths]
    commit = _git(paths[0].parent, "log", "-1", "--format=%H", "--", *names)
    if not commit:
        return None
    return f"{commit}-dirty" if _git(paths[0].parent, "status", "--porcelain", "--", *names) else commit


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()
