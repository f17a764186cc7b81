"""Collision: what a package may not do to another: write its paths, its metadata, or its modules' bytecode."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lockstep.errors import PackageError
from lockstep.image.layer import PREFIX
from lockstep.layers.bytecode import source_of
from lockstep.layers.namespace import is_one_module
from lockstep.layers.package import metadata_of

FOLDER = "folder"
Contents = Mapping[str, Mapping[str, str]]


def link_to(target: str) -> str:
    """Return what a symlink's path holds, in terms that no file's hash and no folder can have."""
    return f"-> {target}"


def doubled(contents: Contents) -> dict[str, list[str]]:
    """Return the paths that more than one package writes and that aren't folders for all, and the packages."""
    seen: dict[str, str] = {}
    found: dict[str, list[str]] = {}
    for package, files in contents.items():
        for path, what in files.items():
            if what == FOLDER and contents[seen.setdefault(path, package)][path] == FOLDER:
                continue
            if (first := seen.setdefault(path, package)) != package:
                found.setdefault(path, [first]).append(package)
    return found


@dataclass(frozen=True)
class Written:
    """How to find out what a package wrote to a path.

    `hash` is that of its bytes; `start` its first bytes, `LONGEST` and one more, or None for what is no file.
    """

    hash: Callable[[str, str], str]
    start: Callable[[str, str], bytes | None]


def check_collisions(contents: Contents, written: Written) -> None:
    """Raise PackageError, naming both packages and the path, for the first that two packages differ in.

    `contents` is, for each package by what a person calls it, what each path holds: FOLDER, `link_to` a
    target, or a content's hash. The same bytes twice are fine, and so is one `__init__.py` spelled twice
    (namespace.py), with its bytecode. One package's metadata and bytecode are its own, whether or not it
    writes the same path.
    """
    found = doubled(contents)
    for path, (first, *others) in found.items():
        for other in others:
            what, theirs = written.hash(first, path), written.hash(other, path)
            source = source_of(path)
            if what == theirs or _is_one_module(first, other, source if source in found else path, written):
                continue
            kinds = " (a folder for one, not for the other)" if FOLDER in (what, theirs) else ""
            raise _collision(first, other, path, f"both write {{}}, with different content{kinds}")
    _check_metadata(contents)
    _check_bytecode(contents)


def _is_one_module(first: str, other: str, path: str, written: Written) -> bool:
    """Tell whether two packages write one module to an `__init__.py`, however they spell it."""
    if posixpath.basename(path) != "__init__.py":
        return False
    one, two = (written.start(package, path) for package in (first, other))
    return one is not None and two is not None and is_one_module(one, two)


def _check_metadata(contents: Contents) -> None:
    """Raise PackageError for two packages that write different files of one project's metadata."""
    owners: dict[str, tuple[str, dict[str, str]]] = {}
    for package, files in contents.items():
        own: dict[str, dict[str, str]] = {}
        for path, what in files.items():
            if what != FOLDER and (name := metadata_of(path)) is not None:
                own.setdefault(name, {})[path] = what
        for name, written in own.items():
            first, theirs = owners.setdefault(name, (package, written))
            if different := sorted(written.keys() ^ theirs.keys()):
                raise _collision(first, package, different[0], f"both write metadata of {name} ({{}})")


def _check_bytecode(contents: Contents) -> None:
    """Raise PackageError for a package that brings bytecode of another's module."""
    compiled = [
        (package, path, source)
        for package, files in contents.items()
        for path in files
        if path.endswith(".pyc") and (source := source_of(path)) is not None and source not in files
    ]
    for package, path, source in compiled:
        for other, files in contents.items():
            if source in files:
                raise _collision(
                    package, other, path, "don't go together: the first writes {}, bytecode of the second"
                )


def _collision(one: str, two: str, path: str, what: str) -> PackageError:
    return PackageError(
        f"{one} and {two} {what.format(posixpath.join('/', path))}.",
        "Leave one of the two out of the spec, or choose versions that don't overlap; "
        f"{PREFIX} holds one file of a name.",
    )
