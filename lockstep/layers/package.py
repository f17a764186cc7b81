"""What a package puts into the environment, before it becomes a layer: the same for wheels and for conda."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from lockstep.errors import PackageError
from lockstep.image.layer import PREFIX, Entry

REMEDY = "Report it to the package's authors; until it is mended, pin another version or leave it out."


def _nothing() -> Iterable[bytes]:
    return ()


@dataclass(frozen=True)
class Item:
    """One path of the environment. `path` is relative to the prefix; content is read only when asked for.

    `sha256` is the hex digest of a file's content, taken from what the package says of itself where it
    does; `link` is a symlink's target.
    """

    path: str
    size: int = 0
    sha256: str = ""
    executable: bool = False
    link: str | None = None
    folder: bool = False
    chunks: Callable[[], Iterable[bytes]] = field(default=_nothing, repr=False, compare=False)

    @property
    def entry(self) -> Entry:
        """Return what the layer's header says of it."""
        path = f"{PREFIX.lstrip('/')}/{self.path}"
        return Entry(path, self.size, self.executable, self.link, self.folder)

    def read(self) -> bytes:
        """Return the whole content: for small files."""
        return b"".join(self.chunks())


@dataclass(frozen=True)
class Unpacked:
    """A package, opened. `items` are unsorted and without bytecode.

    `seal` takes the bytecode that was compiled from it and returns the record of the installation
    (RECORD or conda-meta), which names that as well.
    """

    label: str
    items: tuple[Item, ...]
    seal: Callable[[Sequence[Item]], Item] = field(repr=False)


@dataclass(frozen=True)
class Python:
    """The image's Python: its minor version ("3.11") and the sha256 of the package that holds it."""

    version: str
    sha256: str

    @property
    def modules(self) -> str:
        """Return the standard library's folder, relative to the prefix."""
        return f"lib/python{self.version}"

    @property
    def site_packages(self) -> str:
        """Return where packages go, relative to the prefix."""
        return f"{self.modules}/site-packages"


def check_path(label: str, path: str) -> None:
    """Raise PackageError unless a path stays where it is put: relative, no `..`, no empty part, no NUL."""
    if path.startswith("/") or "\0" in path or any(x in ("", ".", "..") for x in path.split("/")):
        raise PackageError(f"{label} tries to write outside the environment: {path!r}.", REMEDY)


def check_link(label: str, path: str, target: str) -> None:
    """Raise PackageError for a symlink that is absolute or climbs out of the prefix."""
    end = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    if not target or target.startswith("/") or end == ".." or end.startswith("../"):
        raise PackageError(f"{label} holds a link out of the environment: {path!r} -> {target!r}.", REMEDY)


def check_unique(label: str, items: Sequence[Item]) -> None:
    """Raise PackageError for two items of one path, or one that lies below a file or a symlink."""
    seen: dict[str, Item] = {}
    for item in items:
        if item.path in seen:
            raise PackageError(f"{label} holds {item.path!r} twice.", REMEDY)
        seen[item.path] = item
    folders = {""}
    for path in seen:
        above = posixpath.dirname(path)
        while above not in folders:
            if above in seen and not seen[above].folder:
                raise PackageError(f"{label} holds {path!r} below {above!r}, which is no folder.", REMEDY)
            folders.add(above)
            above = posixpath.dirname(above)


@contextlib.contextmanager
def in_words(label: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn a library's errors about a broken package into a PackageError that names it."""
    try:
        yield
    except errors as error:
        raise PackageError(f"{label} can't be unpacked: {error or type(error).__name__}.", REMEDY) from error
