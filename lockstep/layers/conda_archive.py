"""Archive: a look at a conda package before anything of it is unpacked on this machine.

What a package says of itself is looked at as closely as its names: the linker believes `info/paths.json`,
writes to whatever path stands there, and ends the whole process at some.
"""

from __future__ import annotations

import json
import os
import posixpath
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lockstep.errors import PackageError
from lockstep.image.layer import REMEDY, check_no_whiteout
from lockstep.layers.inflate import damaged_zip
from lockstep.layers.package import check_link, check_not_record, check_path, in_words

MAX_INFO = 64 << 20
"""Bytes of a file in `info/` beyond which it isn't read; a package of 100,000 files lists them in 40 MB."""

_INFO = ("info/index.json", "info/paths.json", "info/files")
COPY = 1 << 20


@dataclass(frozen=True)
class Archive:
    """What a look found: `info/index.json`, the entries of paths.json by path, and every name there is.

    `paths` is empty for a package of conda's first format, which only names its files (`info/files`).
    `is_link` says of each name whether it is a symlink.
    """

    index: bytes
    paths: Mapping[str, Mapping[str, Any]]
    is_link: Mapping[str, bool]


def lay(label: str, path: Path, named: Path) -> None:
    """Lay the archive at `path` under a name that ends as its kind does, in a form that rattler reads.

    rattler-build wrote ZIP64 fields (APPNOTE 4.5.3) that nothing refers to; rattler's reader of single
    entries refuses them (conda/rattler#2305). Such an archive is copied without them, contents unchanged.
    """
    named.parent.mkdir(parents=True, exist_ok=True)
    if named.suffix == ".conda":
        with (
            in_words(label, zipfile.BadZipFile),
            damaged_zip(),
            zipfile.ZipFile(path) as source,
        ):
            if any(entry.extra for entry in source.infolist()):
                _copy(source, named)
                return
    named.symlink_to(path.resolve())


def _copy(source: zipfile.ZipFile, target: Path) -> None:
    with zipfile.ZipFile(target, "x") as plain:
        for entry in source.infolist():
            copied = zipfile.ZipInfo(entry.filename)
            copied.file_size = entry.file_size  # tells whether it needs a ZIP64 field
            with source.open(entry) as content, plain.open(copied, "w") as out:
                shutil.copyfileobj(content, out, COPY)


async def read_archive(label: str, stem: str, path: Path) -> Archive:
    """Look at the archive at `path`, whose name without its suffix is `stem`, and return what it holds.

    Raises PackageError, naming the entry, for a name that would land outside, comes twice, lies below a
    link or is a whiteout's, for a device, and for info that belongs to another package or names another
    place or a file that isn't there.
    """
    from rattler.package_streaming import PackageArchive

    info: dict[str, bytes] = {}
    is_link: dict[str, bool] = {}
    try:
        archive = await PackageArchive.from_path(path)
        # A .tar.bz2 is one stream, in which each call finds the entries of its section.
        for section in ("info", "pkg"):
            async for entry in archive.stream(section):
                folder = entry.name.endswith("/")
                there = entry.name.rstrip("/").removeprefix("./")
                if there in ("", ".") or (folder and there in is_link):
                    continue
                _check_name(label, there, is_link)
                is_link[there] = entry.is_symlink
                if entry.is_hardlink:
                    target = (entry.link_target or "").removeprefix("./")
                    if target not in is_link:
                        raise PackageError(
                            f"{label} holds a link out of it: {there!r} -> {target!r}.", REMEDY
                        )
                elif entry.is_symlink:
                    check_link(label, there, entry.link_target or "")
                elif not entry.is_file and not folder:
                    raise PackageError(f"{label} holds {there!r}, which is no file, folder or link.", REMEDY)
                if there in _INFO and not entry.is_link:
                    if entry.size > MAX_INFO:
                        raise PackageError(f"{label} holds {there!r} of {entry.size} bytes.", REMEDY)
                    info[there] = await entry.read()
    except (OSError, UnicodeError) as error:
        raise PackageError(f"{label} can't be unpacked: {error}.", REMEDY) from error
    if "info/index.json" not in info:
        raise PackageError(f"{label} holds no info/index.json.", REMEDY)
    with in_words(label, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        _check_index(label, stem, json.loads(info["info/index.json"]))
        paths = {}
        for listed in _stated_paths(info):
            where = listed["_path"]
            if where in paths:
                raise PackageError(f"{label} lists {where!r} twice in info/paths.json.", REMEDY)
            paths[where] = listed
            _check_listed(label, where, listed, is_link)
    return Archive(info["info/index.json"], paths if "info/paths.json" in info else {}, is_link)


def check_extracted(label: str, archive: Archive, folder: Path) -> None:
    """Raise PackageError unless `folder`, into which rattler extracted an archive, holds what the look found.

    An archive can be written so that two readers find different things in it: a second member of the zip,
    another frame of zstd.
    """
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(root, name)
            there = os.path.relpath(path, folder)
            is_folder = name in folders and not os.path.islink(path)
            if not is_folder and archive.is_link.get(there) is not os.path.islink(path):
                raise PackageError(
                    f"{label} holds {there!r} for one reader and not for another.",
                    REMEDY,
                )


def _stated_paths(info: Mapping[str, bytes]) -> Iterator[dict[str, Any]]:
    if "info/paths.json" in info:
        yield from json.loads(info["info/paths.json"])["paths"]
    else:
        names = info.get("info/files", b"").decode().splitlines()
        yield from ({"_path": x.strip(), "path_type": ""} for x in names if x.strip())


def _check_name(label: str, path: str, is_link: Mapping[str, bool]) -> None:
    check_path(label, path)
    check_no_whiteout(label, path)
    if path in is_link:
        raise PackageError(f"{label} holds {path!r} twice.", REMEDY)
    above = posixpath.dirname(path)
    while above:
        if is_link.get(above):
            raise PackageError(f"{label} holds {path!r} below {above!r}, which is a link.", REMEDY)
        above = posixpath.dirname(above)


def _check_index(label: str, stem: str, index: Mapping[str, Any]) -> None:
    found = f"{index['name']}-{index['version']}-{index['build']}"
    if found != stem:
        raise PackageError(f"{label} says in info/index.json that it is {found}.", REMEDY)


def _check_listed(label: str, path: str, listed: Mapping[str, Any], is_link: Mapping[str, bool]) -> None:
    check_path(label, path)
    check_not_record(label, path)
    if path not in is_link and listed["path_type"] != "directory":
        raise PackageError(f"{label} lists {path!r}, which it doesn't hold.", REMEDY)
