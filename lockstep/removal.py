"""Removal: a folder that a job could write, gone with all in it, however deep and whatever lies there."""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
from pathlib import Path

from lockstep.root import FOLDER, entered, scanned


def remove_tree(path: Path) -> None:
    """Remove a folder and all below it, however deep: `shutil.rmtree` recurses, and a job can outdo that.

    Links are removed, not followed. What can't be removed stays.
    """
    with contextlib.suppress(OSError):
        top = os.open(path, FOLDER | os.O_NOFOLLOW)
        try:
            _empty(top)
        finally:
            os.close(top)
        path.rmdir()


def _empty(top: int) -> None:
    """Empty a folder; what is found in a folder of it is first moved up into it, so there is one level at all times."""
    while found := [part for part, facts in scanned(top) if stat.S_ISDIR(facts.st_mode)]:
        if not sum(_moved_up(part, top) for part in found):
            break
    for part in list(scanned(top)):
        with contextlib.suppress(OSError):
            os.unlink(part[0], dir_fd=top)


def _moved_up(part: str, top: int) -> bool:
    """Empty one folder of `top`, its folders into `top`, and remove it; tell whether it is gone."""
    with contextlib.suppress(OSError):
        folder = entered(part, top)
        try:
            for inner, facts in list(scanned(folder)):
                with contextlib.suppress(OSError):
                    if stat.S_ISDIR(facts.st_mode):
                        os.rename(inner, uuid.uuid4().hex, src_dir_fd=folder, dst_dir_fd=top)
                    else:
                        os.unlink(inner, dir_fd=folder)
        finally:
            os.close(folder)
        os.rmdir(part, dir_fd=top)
        return True
    return False
