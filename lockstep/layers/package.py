"""What a package puts into the environment, before it becomes a layer: the same for wheels and for conda."""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from lockstep.errors import PackageError
from lockstep.image.layer import PREFIX, REMEDY, Entry

_METADATA = re.compile(
    rf"(?:{PREFIX.lstrip('/')}/)?lib/python3\.\d+/(?:site-packages/|lib-dynload/)?"
    r"([^/-]+)(?:-[^/]*)?\.(?i:dist-info|egg-info|egg-link)(?:/|$)"
)
"""Source: "Recording installed projects", and setuptools' formats before it; `importlib.metadata` looks into all
of `sys.path`, and takes endings in capitals too."""


def _nothing() -> Iterable[bytes]:
    return ()


@dataclass(frozen=True)
class Item:
    """One path of the environment. `path` is relative to the prefix; content is read only when asked for.

    `sha256` is the hex digest of a file's content: what the package states of it, compared with the bytes
    while they are written, or what was found. `link` is a symlink's target.
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


def check_not_record(label: str, path: str) -> None:
    """Raise PackageError for a record of the installation, which is written here and never by a package.

    `conda-meta/*.json` says what is installed; a false one would speak for another package.
    """
    folder, name = posixpath.split(path)
    if folder == "conda-meta" and (name == "history" or name.endswith(".json")):
        raise PackageError(f"{label} holds {path!r}, a record that only the installer writes.", REMEDY)


def metadata_of(path: str) -> str | None:
    """Return whose metadata on `sys.path` a path is (a normalised name, PEP 503), or None.

    >>> metadata_of("opt/env/lib/python3.11/site-packages/Foo_Bar-1.0.dist-info/METADATA")
    'foo-bar'
    """
    found = _METADATA.match(path)
    return re.sub(r"[-_.]+", "-", found[1]).lower() if found else None


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


def check_hash(label: str, path: str, stated: str, found: str) -> None:
    """Raise PackageError if a file's sha256 isn't the one that its package states."""
    if stated != found:
        raise PackageError(f"{label} states sha256 {stated} for {path!r}, which holds {found}.", REMEDY)


def hash_of(chunks: Iterable[bytes], algorithm: str = "sha256") -> str:
    """Return the hex digest of a content."""
    found = hashlib.new(algorithm)
    for chunk in chunks:
        found.update(chunk)
    return found.hexdigest()


@contextlib.contextmanager
def in_words(label: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn a library's errors about a broken package into a PackageError that names it."""
    try:
        yield
    except errors as error:
        first_is_object = bool(error.args) and not isinstance(error.args[0], (str, bytes, int))
        said = str(error.args[-1] if first_is_object else error) or type(error).__name__
        raise PackageError(f"{label} can't be unpacked: {said.rstrip('.')}.", REMEDY) from error
