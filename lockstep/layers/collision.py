"""Collision: two packages that write one path differently, where the later layer would win in silence."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

from lockstep.errors import PackageError
from lockstep.image.layer import PREFIX

FOLDER = "folder"


def check_collisions(contents: Mapping[str, Mapping[str, str]]) -> None:
    """Raise PackageError, naming both packages and the path, for the first that two packages differ in.

    `contents` is, for each package by what a person calls it, what each path holds: FOLDER, a symlink's
    target or a content's hash. The same bytes twice are fine.
    """
    seen: dict[str, str] = {}
    owner: dict[str, str] = {}
    for package, files in contents.items():
        for path, what in files.items():
            found = seen.setdefault(path, what)
            if found == what:
                owner.setdefault(path, package)
                continue
            where = posixpath.join("/", path)
            kinds = ""
            if FOLDER in (found, what):
                kinds = " (a folder for one, not for the other)"
            raise PackageError(
                f"{owner[path]} and {package} both write {where}, with different content{kinds}.",
                "Leave one of the two out of the spec, or choose versions that don't overlap; "
                f"{PREFIX} holds one file of a name.",
            )
