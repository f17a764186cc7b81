"""Archive: a look at every name in a conda package before anything of it is unpacked on this machine."""

from __future__ import annotations

import posixpath
from pathlib import Path

from lockstep.errors import PackageError
from lockstep.layers.package import REMEDY, check_link, check_path

_SCRIPTS = ("post-link", "pre-link")  # pre-unlink runs at removal, which an image never sees


async def read_index(label: str, name: str, path: Path) -> bytes:
    """Return info/index.json of the archive at `path`, whose entries are all checked on the way.

    Raises PackageError, naming the entry, for one that would land outside, comes twice, lies below a
    link, is a device, or is a script that conda would run.
    """
    from rattler.package_streaming import PackageArchive

    index: bytes | None = None
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
                check_path(label, there)
                if there in is_link:
                    raise PackageError(f"{label} holds {there!r} twice.", REMEDY)
                is_link[there] = entry.is_symlink
                _check_above(label, there, is_link)
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
                _check_script(label, name, there)
                if there == "info/index.json":
                    index = await entry.read()
    except OSError as error:
        raise PackageError(f"{label} can't be unpacked: {error}.", REMEDY) from error
    if index is None:
        raise PackageError(f"{label} holds no info/index.json.", REMEDY)
    return index


def _check_above(label: str, path: str, is_link: dict[str, bool]) -> None:
    above = posixpath.dirname(path)
    while above:
        if is_link.get(above):
            raise PackageError(f"{label} holds {path!r} below {above!r}, which is a link.", REMEDY)
        above = posixpath.dirname(above)


def _check_script(label: str, name: str, path: str) -> None:
    for kind in _SCRIPTS:
        if path == f"bin/.{name}-{kind}.sh":
            raise PackageError(
                f"{label} needs its {kind} script, and nothing runs while an image is built: {path!r}.",
                f"Leave {name} out of the spec, or do in docker/Dockerfile what its script does.",
            )
