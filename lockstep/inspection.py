"""Inspection: everything in the store is read once and checked, as `./invoke doctor --store` does.

A build checks only what it reads.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lockstep.damage import damaged, is_whole
from lockstep.errors import DamagedError
from lockstep.home import Home
from lockstep.progress import SILENT, Progress
from lockstep.seal import check_folder, is_sealed, read_record

_AT_ONCE = 4
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Inspection:
    """What was looked at: how many things, their size in bytes, and a line for each damaged one, now put aside."""

    checked: int
    size: int
    damaged: tuple[str, ...]


@dataclass(frozen=True)
class _Thing:
    path: Path
    check: Callable[[], object]


def inspect(home: Home, progress: Progress = SILENT) -> Inspection:
    """Read and check what the store holds. What is damaged is put aside: the next build makes it again."""
    things = [*_blobs(home), *_records(home), *_folders(home)]
    sizes = [_size(thing.path) for thing in things]
    lines: list[str] = []
    with (
        progress.task(f"Checking {len(things)} things in the store", sum(sizes)) as task,
        ThreadPoolExecutor(_AT_ONCE) as pool,
    ):

        def look(thing: _Thing, size: int) -> None:
            try:
                with contextlib.suppress(FileNotFoundError):  # a `clean` beside this one
                    thing.check()
            except DamagedError as error:
                lines.append(error.message)
            task.advance(size)

        list(pool.map(look, things, sizes))
    return Inspection(len(things), sum(sizes), tuple(sorted(lines)))


def _blobs(home: Home) -> Iterator[_Thing]:
    for path in (*sorted(home.packages.glob("*")), *sorted(home.layers.glob("sha256/*"))):
        if path.suffix != ".part":
            yield _Thing(path, partial(_check_blob, path))


def _check_blob(path: Path) -> None:
    if not _HASH.fullmatch(path.name):
        raise damaged(path, "its name is no sha256")
    is_whole(path, path.name)


def _records(home: Home) -> Iterator[_Thing]:
    found = (
        *home.layers.glob("*/*.json"),
        *home.fingerprints.glob("*.json"),
        *home.bootstrap.glob("archive/*.json"),
    )
    for path in sorted(found):
        yield _Thing(path, partial(read_record, path))


def _folders(home: Home) -> Iterator[_Thing]:
    found = (
        *home.bootstrap.glob("*"),
        *home.interpreters.glob("*"),
        home.bootstrap / "archive" / "lists",
        home.path / "repodata",
    )
    for path in sorted(found):
        if is_sealed(path):
            yield _Thing(path, partial(check_folder, path))


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            return sum(x.lstat().st_size for x in path.rglob("*"))
        return path.lstat().st_size
    return 0
