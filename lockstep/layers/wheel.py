"""Wheel: a wheel as the items that it puts into the environment.

PyPA's `installer` decides what goes where (binary distribution format, "Installing a wheel"); it is given
a destination that only takes notes, so no content is read before its turn in the layer comes. RECORD must
name every file, with the size and the hash that its bytes have (the same, "Signed wheel files"): names and
sizes are compared when a wheel is opened, hashes while its layer is written (docs/decisions/13).
"""

from __future__ import annotations

import base64
import configparser
import contextlib
import csv
import hashlib
import posixpath
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from installer import install
from installer.destinations import WheelDestination
from installer.exceptions import InstallerError
from installer.records import Hash, InvalidRecordEntry, RecordEntry
from installer.scripts import Script
from installer.sources import WheelContentElement, WheelFile
from installer.utils import Scheme, construct_record_file, parse_wheel_filename
from packaging.metadata import parse_email
from packaging.utils import canonicalize_name, canonicalize_version

from lockstep.errors import PackageError
from lockstep.image.layer import PREFIX, REMEDY, executable
from lockstep.layers.inflate import ZipReader, damaged_zip, is_symlink
from lockstep.layers.package import (
    Item,
    Python,
    Unpacked,
    check_hash,
    check_not_record,
    check_path,
    check_unique,
    hash_of,
    in_words,
    metadata_of,
)

if TYPE_CHECKING:
    from lockstep.lock import LockedPackage

INTERPRETER = f"{PREFIX}/bin/python"
INSTALLER = b"lockstep\n"
UNHASHED = ("RECORD", "RECORD.jws", "RECORD.p7s")
"""Files of .dist-info whose hash RECORD doesn't state: its own, and its signatures'."""

STRONG = ("sha256", "sha384", "sha512")
"""Hashes that RECORD may state: "sha256 or better"."""

BROKEN = (InstallerError, InvalidRecordEntry, configparser.Error, csv.Error)


@contextlib.contextmanager
def open_wheel(
    path: Path, package: LockedPackage, python: Python, advance: Callable[[int], object] = lambda _: None
) -> Iterator[Unpacked]:
    """Open a wheel at `path` (named by its hash) for the environment of `python`.

    `advance` is told compressed bytes as content is read. Raises PackageError, naming the wheel and the
    entry, for what escapes, comes twice, is a symlink, isn't as RECORD says or can't be read.
    """
    label = f"The wheel {package.filename}"
    with contextlib.ExitStack() as stack:
        with in_words(label, *BROKEN, zipfile.BadZipFile, ValueError, KeyError), damaged_zip():
            zipped = ZipReader(path, advance)
            stack.callback(zipped.close)
            zipped.directory.filename = package.filename  # for `installer`, which reads the name's parts
            source = _Source(label, zipped)
            destination = _Notes(label, python, package.filename, source.dist_info_dir)
            _check_metadata(label, package.filename, source.read_dist_info("METADATA"))
            with _entry_points_in_words(label):
                install(source, destination, {"INSTALLER": INSTALLER})
        check_unique(label, destination.items)
        with in_words(label, zipfile.BadZipFile):
            yield Unpacked(label, tuple(destination.items), destination.seal)


def _check_metadata(label: str, filename: str, text: str) -> None:
    """Raise PackageError unless METADATA speaks for the project and the version that the file's name states.

    Source: "Core metadata specifications"; pip refuses such a wheel too.
    """
    metadata, _ = parse_email(text)
    named = parse_wheel_filename(filename)
    found = f"{metadata.get('name', '?')} {metadata.get('version', '?')}"  # it may state none
    if _normalised(f"{named.distribution} {named.version}") != _normalised(found):
        raise PackageError(f"{label} says in METADATA that it is {found}.", REMEDY)


def _normalised(project: str) -> tuple[str, str]:
    name, _, version = project.rpartition(" ")
    return canonicalize_name(name), canonicalize_version(version.replace("_", "-"))


@contextlib.contextmanager
def _entry_points_in_words(label: str) -> Iterator[None]:
    try:
        yield
    except AssertionError as error:  # what `installer` raises for a line that it can't read
        raise PackageError(
            f"{label} has a line in entry_points.txt that isn't `name = module:function`.", REMEDY
        ) from error


class _Pending:
    """A stream that isn't opened yet, with what the wheel's RECORD says of it."""

    def __init__(self, zipped: ZipReader, item: zipfile.ZipInfo, sha256: str) -> None:
        self.size = item.file_size
        self.sha256 = sha256
        self.chunks: Callable[[], Iterable[bytes]] = lambda: zipped.chunks(item)


class _Source(WheelFile):
    """A wheel whose entries are checked by name and handed out unread, sorted."""

    def __init__(self, label: str, zipped: ZipReader) -> None:
        super().__init__(zipped.directory)
        self._label = label
        self._zip = zipped
        self._files = [x for x in zipped.directory.infolist() if not x.is_dir()]
        for item in self._files:
            check_path(label, item.orig_filename)
            if item.filename != item.orig_filename:
                raise PackageError(f"{label} holds a name that can't be: {item.orig_filename!r}.", REMEDY)
            if is_symlink(item):
                raise PackageError(f"{label} holds a symlink, which wheels can't: {item.filename!r}.", REMEDY)
        names = [x.filename for x in self._files]
        if len(set(names)) < len(names):
            twice = next(x for x in names if names.count(x) > 1)
            raise PackageError(f"{label} holds {twice!r} twice.", REMEDY)

    @cached_property
    def data_dir(self) -> str:
        """Return the .data folder's name as it is spelled in the archive."""
        tops = {x.filename.split("/", 1)[0] for x in self._files}
        return next((x for x in sorted(tops) if x.endswith(".data")), super().data_dir)

    def get_contents(self) -> Iterator[WheelContentElement]:
        rows = self._rows()
        for item in sorted(self._files, key=lambda x: x.filename):
            if "__pycache__" in item.filename.split("/")[:-1]:
                continue  # compiled by some other Python, for some other path
            pending = _Pending(self._zip, item, self._stated(item, rows[item.filename]))
            record = (item.filename, "", "")
            yield record, cast("BinaryIO", pending), executable(item.external_attr >> 16)

    def _rows(self) -> dict[str, tuple[str, str]]:
        """Return what RECORD says of each file, hash and size; it must name all that there are and no other."""
        rows: dict[str, tuple[str, str]] = {}
        for row in csv.reader(self.read_dist_info("RECORD").splitlines()):
            if len(row) != 3:
                raise PackageError(
                    f"{self._label} has a line in RECORD that isn't path, hash and size: {','.join(row)[:200]!r}.",
                    REMEDY,
                )
            path, stated, size = row
            if rows.setdefault(path, (stated, size)) != (stated, size):
                raise PackageError(f"{self._label} says two things of {path!r} in RECORD.", REMEDY)
        own = {f"{self.dist_info_dir}/{x}": ("", "") for x in UNHASHED}
        names = {x.filename for x in self._files}
        if unlisted := sorted(names - rows.keys() - own.keys()):
            raise PackageError(f"{self._label} holds {unlisted[0]!r}, which RECORD doesn't list.", REMEDY)
        if absent := sorted(rows.keys() - names - own.keys()):
            raise PackageError(f"{self._label} lists {absent[0]!r} in RECORD and doesn't hold it.", REMEDY)
        return own | rows

    def _stated(self, item: zipfile.ZipInfo, row: tuple[str, str]) -> str:
        """Return the sha256 of an entry, in hex, as RECORD states it; what else it states is compared here."""
        name, (stated, size) = item.filename, row
        folder, _, last = name.rpartition("/")
        if folder == self.dist_info_dir and last in UNHASHED:
            return "" if last == "RECORD" else hash_of(self._zip.chunks(item))  # RECORD is written anew
        algorithm, _, digest = stated.partition("=")
        if algorithm not in STRONG:
            raise PackageError(f"{self._label} states no sha256 for {name!r} in RECORD: {stated!r}.", REMEDY)
        if size not in ("", str(item.file_size)):
            raise PackageError(
                f"{self._label} states {size} bytes for {name!r}, which holds {item.file_size}.", REMEDY
            )
        if algorithm == "sha256":
            return _hex(digest)
        check_hash(self._label, name, _hex(digest), hash_of(self._zip.chunks(item), algorithm))
        return hash_of(self._zip.chunks(item))


class _Notes(WheelDestination):
    """A destination that writes nothing and remembers everything."""

    def __init__(self, label: str, python: Python, filename: str, dist_info: str) -> None:
        self.items: list[Item] = []
        self._label = label
        self._site = python.site_packages
        self._whose = metadata_of(f"{self._site}/{dist_info}")
        include = f"include/python{python.version}/{parse_wheel_filename(filename).distribution}"
        self._roots = {
            "headers": include,
            "scripts": "bin",
            "data": "",
            "purelib": self._site,
            "platlib": self._site,
        }
        self._wrappers: set[str] = set()
        self._record = ""
        self._rows: list[tuple[Scheme, RecordEntry]] = []

    def write_script(self, name: str, module: str, attr: str, section: Any) -> RecordEntry:
        if "/" in name:
            raise PackageError(f"{self._label} has an entry point that leaves bin: {name!r}.", REMEDY)
        _, data = Script(name, module, attr, section).generate(INTERPRETER, "posix")
        item = self._add("scripts", name, _of_bytes("", data, executable=True))
        self._wrappers.add(item.path)
        return self._row(item)

    def write_file(self, scheme: Scheme, path: Any, stream: BinaryIO, is_executable: bool) -> RecordEntry:
        if isinstance(stream, _Pending):
            content = Item("", stream.size, stream.sha256, is_executable, chunks=stream.chunks)
        else:
            content = _of_bytes("", stream.read(), is_executable)
        if scheme == "scripts":
            if f"bin/{path}" in self._wrappers:  # made at build time; ours has the image's interpreter
                return self._row(next(x for x in self.items if x.path == f"bin/{path}"))
            content = self._script(str(path), content)
        return self._row(self._add(scheme, str(path), content))

    def finalize_installation(
        self, scheme: Scheme, record_file_path: str, records: Iterable[tuple[Scheme, RecordEntry]]
    ) -> None:
        self._record = f"{self._site}/{record_file_path}"
        self._rows = list({row.path: (scheme, row) for scheme, row in records}.values())

    def seal(self, compiled: Sequence[Item]) -> Item:
        """Return RECORD, with the wheel's files, what was generated and the bytecode."""
        rows = [*self._rows, *((Scheme("purelib"), self._row(x)) for x in compiled)]
        return _of_bytes(self._record, construct_record_file(rows).read())

    def _add(self, scheme: str, path: str, content: Item) -> Item:
        check_path(self._label, path)
        full = posixpath.join(self._roots[scheme], path)
        check_not_record(self._label, full)
        if (other := metadata_of(full)) not in (None, self._whose):
            raise PackageError(f"{self._label} holds {full!r}, which is metadata of {other}.", REMEDY)
        item = Item(full, content.size, content.sha256, content.executable, chunks=content.chunks)
        self.items.append(item)
        return item

    def _script(self, path: str, content: Item) -> Item:
        """Return a script that names the image's interpreter if it asks for one ("#!python"), executable."""
        start = next(iter(content.chunks()), b"")
        if not start.startswith(b"#!python"):
            return Item("", content.size, content.sha256, True, chunks=content.chunks)
        check_hash(self._label, path, content.sha256, hash_of(content.chunks()))
        old = b"".join(start.partition(b"\n")[:2])
        new = f"#!{INTERPRETER}\n".encode()

        def changed() -> Iterator[bytes]:
            rest = iter(content.chunks())
            yield new + next(rest)[len(old) :]
            yield from rest

        return Item("", content.size - len(old) + len(new), hash_of(changed()), True, chunks=changed)

    def _row(self, item: Item) -> RecordEntry:
        digest = base64.urlsafe_b64encode(bytes.fromhex(item.sha256)).rstrip(b"=").decode()
        path = item.path.removeprefix(f"{self._site}/")
        if path == item.path:  # scripts, headers and data are told from site-packages, with "../"
            path = posixpath.relpath(path, self._site)
        return RecordEntry(path, Hash("sha256", digest), item.size)


def _of_bytes(path: str, data: bytes, executable: bool = False) -> Item:
    return Item(path, len(data), hashlib.sha256(data).hexdigest(), executable, chunks=lambda: (data,))


def _hex(digest: str) -> str:
    """Return the hex form of a digest as RECORD has it: urlsafe base64 without padding."""
    return base64.urlsafe_b64decode(digest + "=" * (-len(digest) % 4)).hex()
