"""Root: a folder in which others write, and from which no name leads out (as Go's os.Root).

Between looking at a path and using it, whoever may write below it can put a link in its place. So nothing
here is looked at first: each folder on the way is opened from the one before it (`openat`), without following
links, and what is at the end is used through the folder that was opened.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

LONGEST = 1024
"""Of a name, in bytes: what Azure's blob storage allows; it bounds the depth of folders too."""
LONGEST_PART = 255

_LOOK = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # opening a FIFO that nobody writes to would wait for ever
FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY


class UnsafeNameError(ValueError):
    """A name that leads out of its folder, or that no file can have."""


@dataclass(frozen=True)
class Entry:
    """Something below a Root: its name with `/`, and what is known of it.

    `reason` says why it is left out ("a link", …); "" for a regular file, which always has `facts`.
    """

    name: str
    facts: os.stat_result | None = None
    reason: str = ""


@dataclass(frozen=True)
class Root:
    """Access to what lies below `path`, by names such as `outputs/model.pt`.

    `path` itself is ours: nobody who writes below it may rename it or a folder above it; it may be a link.
    Below it, links and whatever is neither a regular file nor a folder don't exist. Every method raises
    UnsafeNameError for a name that leads out, FileNotFoundError for what isn't there, NotADirectoryError or
    IsADirectoryError where a folder is expected and a file (or a link) found, or the other way round.
    """

    path: Path

    def open(self, name: str) -> BinaryIO:
        """Open a regular file for reading."""
        with self._parent(name) as (folder, last):
            return os.fdopen(_regular(last, folder), "rb")

    def stat(self, name: str) -> os.stat_result:
        """Return the facts of a regular file or a folder."""
        with self._parent(name) as (folder, last):
            facts = os.stat(last, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISREG(facts.st_mode) and not stat.S_ISDIR(facts.st_mode):
                raise _absent(name)
            return facts

    def is_file(self, name: str) -> bool:
        """Tell whether there is a regular file of this name."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return stat.S_ISREG(self.stat(name).st_mode)
        return False

    def is_folder(self, name: str) -> bool:
        """Tell whether there is a folder of this name."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return stat.S_ISDIR(self.stat(name).st_mode)
        return False

    def put(self, partial: Path, name: str, *, replace: bool = True) -> None:
        """Move a finished file in, at once, and make the folders on the way. A link of that name is replaced.

        `partial` lies on the same disk where only we can write. Without `replace`, raises FileExistsError if
        there is anything of that name.
        """
        with self._parent(name, make=True) as (folder, last):
            if replace:
                os.replace(partial, last, dst_dir_fd=folder)
            else:
                os.link(partial, last, dst_dir_fd=folder, follow_symlinks=False)
                partial.unlink()

    def create(self, name: str) -> int:
        """Make a new file and return a descriptor that appends to it; what was there before is removed."""
        with self._parent(name, make=True) as (folder, last):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(last, dir_fd=folder)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            return os.open(last, flags, 0o666, dir_fd=folder)

    def link(self, name: str, other: str) -> None:
        """Give the file `name` the second name `other`; what was there before is removed."""
        with self._parent(name) as (source, first), self._parent(other, make=True) as (folder, last):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(last, dir_fd=folder)
            os.link(first, last, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)

    def make_folder(self, name: str) -> None:
        """Make a folder and those above it; nothing happens if it is there."""
        with self._opened(parts_of(name), make=True):
            pass

    def remove(self, name: str) -> None:
        """Remove a regular file."""
        with self._parent(name) as (folder, last):
            if not stat.S_ISREG(os.stat(last, dir_fd=folder, follow_symlinks=False).st_mode):
                raise _absent(name)
            os.unlink(last, dir_fd=folder)

    def files(self, below: str = "") -> Iterator[tuple[str, os.stat_result]]:
        """Yield name and facts of every regular file below a folder, each folder's own first, sorted."""
        for entry in self.entries(below):
            if entry.facts is not None and not entry.reason:
                yield entry.name, entry.facts

    def entries(self, below: str = "") -> Iterator[Entry]:
        """Yield every file below a folder, and with its reason everything that is left out."""
        top = parts_of(below) if below else ()
        todo = [top]
        while todo:
            here = todo.pop()
            folders = []
            try:
                listed = self._listed(here)
            except OSError as error:
                if here != top:
                    yield Entry("/".join(here), reason=f"can't be read ({error.strerror})")
                continue
            for part, facts in listed:
                name = "/".join((*here, part))
                reason = _unusable(name) or _kind(facts)
                if reason == _FOLDER_KIND:
                    folders.append((*here, part))
                else:
                    yield Entry(name, facts, reason)
            todo.extend(reversed(folders))

    def children(self, name: str = "") -> Iterator[tuple[str, os.stat_result]]:
        """Yield name and facts of the files and folders directly in a folder, sorted."""
        here = parts_of(name) if name else ()
        for part, facts in self._listed(here):
            inner = "/".join((*here, part))
            if not _unusable(inner) and _kind(facts) in ("", _FOLDER_KIND):
                yield inner, facts

    def give(self, uid: int, gid: int, below: str = "") -> None:
        """Make folders and files below a folder someone's, and the folder itself, as far as this process may.

        A program that a job left runs as whoever starts it: set-user-id and set-group-id are taken off. Links
        keep their owner, and so does a file with a second name (a hard link), which may lie anywhere.
        """
        todo = [parts_of(below) if below else ()]
        while todo:
            here = todo.pop()
            with contextlib.suppress(OSError), self._opened(here) as folder:
                for part, facts in scanned(folder):
                    if (
                        stat.S_ISDIR(facts.st_mode)
                        and len("/".join((*here, part)).encode(errors="replace")) <= LONGEST
                    ):
                        todo.append((*here, part))
                    elif stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1:
                        _give_file(part, folder, uid, gid)
                os.fchown(folder, uid, gid)

    def _listed(self, folders: tuple[str, ...]) -> list[tuple[str, os.stat_result]]:
        with self._opened(folders) as folder:
            return sorted(scanned(folder))

    @contextlib.contextmanager
    def _parent(self, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Give the descriptor of the folder that holds `name`, and the last part of the name."""
        *folders, last = parts_of(name)
        with self._opened(tuple(folders), make=make) as folder:
            yield folder, last

    @contextlib.contextmanager
    def _opened(self, folders: tuple[str, ...], *, make: bool = False) -> Iterator[int]:
        """Give the descriptor of a folder, entered part by part; () is the root itself."""
        if make:
            self.path.mkdir(parents=True, exist_ok=True)
        here = os.open(self.path, FOLDER)
        try:
            for part in folders:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, dir_fd=here)
                inner = entered(part, here)
                os.close(here)
                here = inner
            yield here
        finally:
            os.close(here)


def parts_of(name: str) -> tuple[str, ...]:
    """Return the parts of a name. Raises UnsafeNameError for one that leads out or can't be.

    >>> parts_of("outputs/model.pt")
    ('outputs', 'model.pt')
    """
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\0" in name or not pure.parts:
        raise UnsafeNameError(f"The path {name[:LONGEST]!r} leaves its folder.")
    if any(len(os.fsencode(part)) > LONGEST_PART for part in pure.parts):
        raise UnsafeNameError(f"A name in the path {name[:80]!r}… is longer than {LONGEST_PART} bytes.")
    if len(os.fsencode(name)) > LONGEST:
        raise UnsafeNameError(f"The path {name[:80]!r}… is longer than {LONGEST:,} bytes.")
    return pure.parts


def entered(part: str, folder: int) -> int:
    """Open a folder in a folder. Raises NotADirectoryError for anything else, a link too."""
    try:
        return os.open(part, FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP:  # what some systems say of a link
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), part) from error
        raise


def _regular(part: str, folder: int) -> int:
    """Open a regular file in a folder; anything else isn't even opened, as far as that can be seen before."""
    if not stat.S_ISREG(os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode):
        raise _absent(part)
    try:
        file = os.open(part, _LOOK | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link or a socket, put there this moment
            raise _absent(part) from error
        raise
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise _absent(part)
    return file


def _give_file(part: str, folder: int, uid: int, gid: int) -> None:
    """Give a file that has one name to someone, through its descriptor, as an ordinary file."""
    with contextlib.suppress(OSError):
        file = _regular(part, folder)
        try:
            facts = os.fstat(file)
            if facts.st_nlink == 1:
                if facts.st_mode & (stat.S_ISUID | stat.S_ISGID):
                    os.fchmod(file, stat.S_IMODE(facts.st_mode) & 0o777)
                os.fchown(file, uid, gid)
        finally:
            os.close(file)


def scanned(folder: int) -> Iterator[tuple[str, os.stat_result]]:
    """Yield name and facts of what is in an open folder; what goes meanwhile is left out."""
    with os.scandir(folder) as found:
        for each in found:
            with contextlib.suppress(FileNotFoundError):
                yield each.name, each.stat(follow_symlinks=False)


_FOLDER_KIND = "a folder"


def _kind(facts: os.stat_result) -> str:
    """Return what something is, "" for a regular file."""
    if stat.S_ISREG(facts.st_mode):
        return ""
    if stat.S_ISDIR(facts.st_mode):
        return _FOLDER_KIND
    return "a link" if stat.S_ISLNK(facts.st_mode) else "neither a file nor a folder"


def _unusable(name: str) -> str:
    """Return why a name can't travel: clients, addresses and XML all have to carry it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name isn't UTF-8"
    if "\\" in name or any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        return "its name has a backslash or control characters"
    return f"its path is longer than {LONGEST:,} bytes" if len(os.fsencode(name)) > LONGEST else ""


def _absent(name: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
