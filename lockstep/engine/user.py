"""As whom a job runs, and how what it leaves becomes the person's.

Inside a container a uid is what it is outside: a job that ran as root would be root wherever it finds a way to this
machine's files. So root's jobs run as nobody, and what they leave is given to root in the end.
"""

from __future__ import annotations

import contextlib
import grp
import itertools
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

NOBODY = 65_534
UNUSED = range(65_520, NOBODY)
"""Ids that no distribution gives away (systemd's UIDS-GIDS: "unused"), and that a namespace of 65,536 ids has too."""


def job_user(person: tuple[int, int], *, rootless: bool) -> tuple[int, int]:
    """Return uid and gid of a job's processes, where `person` (uid, gid) is whose job it is.

    An ordinary user's job runs as that user. Root's runs as an id that has no name on this machine. A rootless
    engine's root is the person, and every other id is nobody's there.
    """
    if rootless:
        return 0, 0
    return person if person[0] else _nobody()


def _nobody() -> tuple[int, int]:
    """Return an id, for uid and gid, that is nobody's here."""
    for number in UNUSED:
        try:
            pwd.getpwuid(number)
        except KeyError:
            try:
                grp.getgrgid(number)
            except KeyError:
                return number, number
    return NOBODY, NOBODY


def open_to_others(folder: Path) -> None:
    """Let everybody read a folder, or a file, that lies in a closed one: whoever gets it mounted."""
    folder.chmod(stat.S_IMODE(folder.stat().st_mode) | (0o555 if folder.is_dir() else 0o444))
    for name, mode, parent in _entries(folder):
        if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
            os.chmod(name, stat.S_IMODE(mode) | (0o555 if stat.S_ISDIR(mode) else 0o444), dir_fd=parent)


def _entries(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Yield name, mode and open parent of everything below a folder; links aren't followed."""
    for _, folders, files, parent in os.fwalk(folder):
        for name in (*folders, *files):
            with contextlib.suppress(FileNotFoundError):
                yield name, os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode, parent


def unreadable(folder: Path, user: tuple[int, int]) -> Path | None:
    """Return something below `folder` that this user can't read, or None.

    Looks at every folder and at one file of each: a umask or a chmod is the same for all of them.
    """
    for path in _samples(folder):
        facts = path.stat()
        needed = 0o5 if stat.S_ISDIR(facts.st_mode) else 0o4
        shift = 6 if facts.st_uid == user[0] else 3 if facts.st_gid == user[1] else 0
        if facts.st_mode >> shift & needed != needed:
            return path
    return None


def _samples(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        yield folder
        return
    for parent, _, files in os.walk(folder):
        yield Path(parent)
        yield from itertools.islice((path for path in map(Path(parent).joinpath, files) if path.is_file()), 1)
