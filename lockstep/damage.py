"""Damage: what lies in the store and isn't what was put there is found, put aside, and made or fetched again.

Whoever takes something out of the store checks it in the pass that reads it anyway. A fault ends in a
DamagedError, and by then the thing is gone from the store; the stories that a person starts run through
`repaired`, which goes again, finds it missing, and makes or fetches it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from lockstep.errors import DamagedError, LockstepError
from lockstep.progress import Progress

SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors of a machine that is short of something now: they say nothing of the file, which must stay."""

_CHUNK = 1 << 20
_Result = TypeVar("_Result")


def damaged(path: Path, found: str) -> DamagedError:
    """Put what lies at `path` aside and return the error to raise; `found` says what is wrong with it.

    It is removed: nothing in the store is the only one of its kind, and the room is needed for its successor.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise LockstepError(
            f"{path} is damaged ({found}) and can't be removed: {error.strerror}.", f"Remove {path} by hand."
        ) from error
    return DamagedError(f"{path} is damaged: {found}.", path)


def is_there(path: Path, size: int | None = None) -> bool:
    """Say whether a file is there; `size` is in bytes, None where it isn't known. Its content isn't read.

    Raises DamagedError for anything else in its place: a folder, a link, a file of another size or one that
    may not be read.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(found.st_mode):
        raise damaged(path, "expected a file, found a folder, a link or something else")
    if size is not None and found.st_size != size:
        raise damaged(path, f"expected {size:,} bytes, found {found.st_size:,}")
    if not os.access(path, os.R_OK):
        raise damaged(path, "it may not be read")
    return True


def is_whole(path: Path, sha256: str) -> bool:
    """Read the file at `path`, say whether it is there, and raise DamagedError unless it has this sha256 (hex)."""
    if not is_there(path):
        return False
    if (found := hash_of(path)) != sha256:
        raise damaged(path, f"expected sha256 {sha256}, found {found}")
    return True


def hash_of(path: Path) -> str:
    """Return a file's sha256 (hex). A disk that can't give it back is damage as well."""
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                found.update(chunk)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in SHORT:
            raise
        raise damaged(path, f"it can't be read ({error.strerror})") from error
    return found.hexdigest()


def repaired(action: Callable[[], _Result], progress: Progress) -> _Result:
    """Return what `action` returns; it is done again for each damaged thing that it finds, with a line.

    A thing that is damaged twice in one command isn't an accident: then the error is raised.
    """
    known: set[Path] = set()
    while True:
        try:
            return action()
        except DamagedError as error:
            if error.path in known:
                raise
            known.add(error.path)
            progress.say(f"{error.message} It is put aside, and made or fetched again.")
