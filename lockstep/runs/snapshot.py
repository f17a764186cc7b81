"""Snapshot: the source that travels with a run, file by file.

What `.amlignore` in the folder leaves (or `.gitignore`, where there is none), by the same rules as Azure
ML's SDK: gitignore patterns, an ignored folder is not looked into, the ignore file itself travels,
symbolic links are followed. Empty folders don't count.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lockstep.errors import JobError

if TYPE_CHECKING:
    from pathspec import PathSpec

_CHUNK = 1 << 20
_IGNORE_FILES = (".amlignore", ".gitignore")


@dataclass(frozen=True)
class SnapshotFile:
    """One file: its path with `/`, its sha256 (hex), its size in bytes, whether it may be executed."""

    path: str
    sha256: str
    size: int
    executable: bool


@dataclass(frozen=True)
class Snapshot:
    """The files of a source folder, sorted by path."""

    files: tuple[SnapshotFile, ...]

    @cached_property
    def hash(self) -> str:
        """The identity: hex sha256 over paths and contents. Modes don't count: Azure ML doesn't keep them."""
        lines = "".join(f"{file.sha256} {file.path}\n" for file in self.files)
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def size(self) -> int:
        """All files together, in bytes."""
        return sum(file.size for file in self.files)


def take_snapshot(folder: Path, *, copy_to: Path | None = None) -> Snapshot:
    """Return what of `folder` travels; with `copy_to`, put a copy of it into that new folder.

    The copy is made of the bytes that were hashed, and everybody may read it, whatever the umask.
    Raises JobError for what can't travel: a dangling link, a loop of links, a name that isn't UTF-8.
    """
    if copy_to is not None:
        copy_to.mkdir(parents=True)
        copy_to.chmod(0o755)
    files = tuple(_take(source, path, copy_to) for path, source in sorted(_walk(folder)))
    return Snapshot(files)


def list_files(folder: Path) -> tuple[tuple[str, int], ...]:
    """Return path and size in bytes of what of `folder` would travel, sorted by path, without reading it."""
    return tuple((path, os.path.getsize(where)) for path, where in sorted(_walk(folder)))


def _walk(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield each file's path inside the snapshot and where it is."""
    ignored = _ignore_rules(folder)

    def look(inside: str, parents: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, str]]:
        real = os.path.join(folder, inside)
        state = os.stat(real)
        this = (state.st_dev, state.st_ino)
        if this in parents:
            raise _unfit(real, "is a link to a folder that holds it", "Remove the link")
        for name in os.listdir(real):
            path = f"{inside}/{name}" if inside else name
            if ignored is not None and ignored.match_file(path):
                continue
            where = os.path.join(real, name)
            try:
                path.encode()
            except UnicodeEncodeError:
                raise _unfit(where, "has a name that isn't UTF-8", "Rename it") from None
            if os.path.isdir(where):
                yield from look(path, (*parents, this))
            elif os.path.isfile(where):
                yield path, where
            elif os.path.lexists(where):
                kind = "is a link to nothing" if os.path.islink(where) else "isn't a file or a folder"
                raise _unfit(where, kind, "Remove it")

    yield from look("", ())


def _ignore_rules(folder: Path) -> PathSpec | None:
    import pathspec

    for name in _IGNORE_FILES:
        file = folder / name
        if file.is_file():
            with file.open(encoding="utf-8", errors="surrogateescape") as lines:
                return pathspec.PathSpec.from_lines("gitwildmatch", lines)
    return None


def _take(source: str, path: str, copy_to: Path | None) -> SnapshotFile:
    digest = hashlib.sha256()
    size = 0
    try:
        with open(source, "rb") as file:
            executable = bool(os.fstat(file.fileno()).st_mode & 0o111)
            target = _open_copy(copy_to, path, executable) if copy_to is not None else None
            try:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
                    if target is not None:
                        _write(target, chunk)
            finally:
                if target is not None:
                    os.close(target)
    except (PermissionError, FileNotFoundError) as error:
        raise _unfit(source, f"can't be read ({error.strerror})", "Mend that") from error
    return SnapshotFile(path, digest.hexdigest(), size, executable)


def _open_copy(folder: Path, path: str, executable: bool) -> int:
    parent = folder
    for part in path.split("/")[:-1]:
        parent = parent / part
        if not parent.is_dir():
            parent.mkdir()
            parent.chmod(0o755)
    target = os.open(folder / path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.fchmod(target, 0o755 if executable else 0o644)
    return target


def _write(target: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(target, view) :]


def _unfit(path: str, what: str, remedy: str) -> JobError:
    shown = path.encode(errors="backslashreplace").decode()
    return JobError(
        f"{shown} {what}, so it can't travel with the source.", f"{remedy}, or list it in .amlignore."
    )
