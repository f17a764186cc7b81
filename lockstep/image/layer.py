"""Layer: a deterministic tar, and the one place that makes tar headers.

Owner, mode, time and order are decided here and nowhere else, so the same entries give the same bytes
under any user, umask, clock and file system. Layers stay uncompressed in the store: their digest is
their diff ID (OCI image spec, "Layer DiffID"), and no compressor's version has a say in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import stat
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from lockstep.errors import PackageError

PREFIX = "/opt/env"
"""Where the environment lives in the image: on no user's home, readable by any uid."""

EPOCH = 315532800
"""The time of every entry, 1980-01-01T00:00:00Z: the first that a zip file can hold, so that code in the
image can zip up its own files."""

FORMAT = "4"
"""The layer format's version. Raise it when the same package would give other bytes, or when more is checked
while a layer is made; it is part of every key in the store, so layers of the old format are made again."""

WHITEOUT = ".wh."
"""What a name begins with that removes something from a lower layer (OCI image spec, "Whiteouts")."""

NAME_MAX, PATH_MAX = 255, 4095
"""Bytes of a file's name, and of a whole path, that Linux takes (limits.h)."""

REMEDY = "Report it to the package's authors; until it is fixed, pin another version or leave it out."
CHUNK = 1 << 20
LARGE = 8 << 20
"""Bytes beyond which a file's own hash isn't taken while it is written: the few such files hold nine tenths
of all bytes, and are hashed while the engine takes the image (docs/decisions/13)."""

END = bytes(1024)  # two zero blocks end a tar (POSIX pax, "ustar Interchange Format")


@dataclass(frozen=True)
class Layer:
    """One uncompressed layer in the store.

    `diff_id` is "sha256:<hex>" of the tar, `size` its bytes; `packages` says what is in it, each as
    "name version", in the order in which they were laid in.
    """

    diff_id: str
    size: int
    packages: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """What a tar header says of one path: relative to the image's root, no leading slash."""

    path: str
    size: int = 0
    executable: bool = False
    link: str | None = None
    """The symlink's target, as it stands in the link; None for a file or a folder."""
    folder: bool = False

    def header(self) -> bytes:
        """Return the header blocks: ustar, or POSIX pax where a name or a size doesn't fit into ustar."""
        info = tarfile.TarInfo(self.path)
        info.mtime = EPOCH
        if self.folder:
            info.type, info.mode = tarfile.DIRTYPE, 0o755
        elif self.link is not None:
            info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, self.link
        else:
            info.size, info.mode = self.size, 0o755 if self.executable else 0o644
        try:
            return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
        except ValueError:  # also what isn't ASCII
            return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


class LayerWriter:
    """Writes one layer to a file, hashing what passes. Entries must come sorted by path.

    `source` is what the layer is made of, for the words of errors: "The wheel m-1.0-py3-none-any.whl".

    Parent folders are added by themselves, with one mode and one time, so two layers that share a folder
    say the same of it. `close` writes the end and gives the digest; there is none before. `places` says
    where in the tar each path is: the first byte of its header, and the first after its content.
    """

    def __init__(self, file: BinaryIO, source: str) -> None:
        self.size = 0
        self.places: dict[str, tuple[int, int]] = {}
        self._file = file
        self._source = source
        self._hash = hashlib.sha256()
        self._last = ""
        self._closed = False

    def add(self, entry: Entry, chunks: Iterable[bytes] = ()) -> str:
        """Write an entry and its content; return the content's sha256 in hex, "" for one above LARGE.

        `chunks` must hold exactly `entry.size` bytes.
        """
        content = hashlib.sha256() if entry.size <= LARGE else None
        with self._place(entry.path):
            left = entry.size
            held = entry.header()  # written with the first chunk: most files have but one
            for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    break
                if content is not None:
                    content.update(chunk)
                self._write(held + chunk)
                held = b""
            if left:
                more = "more" if left < 0 else "fewer"
                raise PackageError(
                    f"{self._source} holds {more} bytes of {entry.path} than it says ({entry.size}).", REMEDY
                )
            self._write(held + bytes(-entry.size % 512))
        return content.hexdigest() if content is not None else ""

    def copy(self, path: str, blocks: Iterable[bytes]) -> None:
        """Write an entry as another layer holds it: header, content and padding."""
        with self._place(path):
            for block in blocks:
                self._write(block)

    def close(self) -> str:
        """Write the end blocks and return the diff ID."""
        if not self._closed:
            self._write(END)
            self._closed = True
        return f"sha256:{self._hash.hexdigest()}"

    @contextlib.contextmanager
    def _place(self, path: str) -> Iterator[None]:
        if path <= self._last:
            raise ValueError(f"entries out of order: {path!r} after {self._last!r}")
        check_no_whiteout(self._source, path)
        if not fits(path):
            raise PackageError(
                f"{self._source} holds a name that is too long for Linux ({NAME_MAX} bytes, {PATH_MAX} with its "
                f"folders): {path[:80]!r}…",
                REMEDY,
            )
        self._last = path
        for folder in parents(path):
            if folder not in self.places:
                header = Entry(folder, folder=True).header()
                self.places[folder] = (self.size, self.size + len(header))
                self._write(header)
        start = self.size
        yield
        self.places[path] = (start, self.size)

    def _write(self, data: bytes) -> None:
        self._hash.update(data)
        self._file.write(data)
        self.size += len(data)


def check_no_whiteout(source: str, path: str) -> None:
    """Raise PackageError for a path that engines take for the removal of something in a lower layer.

    Such is any name that begins with `.wh.`, a folder's too (OCI image spec, "Whiteouts"). `source` is what
    holds the path.
    """
    if is_whiteout(path):
        raise PackageError(
            f"{source} holds {path!r}: a name that begins with {WHITEOUT} makes engines delete files of the "
            "layers below.",
            REMEDY,
        )


def fits(path: str) -> bool:
    """Say whether Linux can hold a path, relative to the image's root: what is too long stops an engine."""
    parts = path.encode("utf-8", "surrogateescape").split(b"/")
    return max(map(len, parts)) <= NAME_MAX and sum(map(len, parts)) + len(parts) <= PATH_MAX


def is_whiteout(path: str) -> bool:
    """Say whether a part of a path is a whiteout's name."""
    return f"/{WHITEOUT}" in f"/{path}"


def parents(path: str) -> Iterator[str]:
    """Yield the folders above a path, outermost first: "a/b/c" gives "a", "a/b"."""
    end = path.find("/")
    while end > 0:
        yield path[:end]
        end = path.find("/", end + 1)


def executable(mode: int) -> bool:
    """Say whether a file's mode lets anybody execute it; nothing else of a mode reaches a layer."""
    return bool(stat.S_IMODE(mode) & 0o111)
