"""A layer that an engine built, made independent of the machine and the minute where that can be done.

Entries are sorted, times are the one time of all layers, owners stay as numbers, and what only concerns
the build (package caches, logs, temporary files, host files) is left out. Contents stay: what a RUN
step downloaded is what it is, which is why `build` says that the image depends on the day.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from pathlib import Path
from typing import IO

from lockstep.errors import SpecError
from lockstep.image import LAYER, ImageLayer
from lockstep.image.hardlinks import settle, settled_entry
from lockstep.image.layer import CHUNK, EPOCH, WHITEOUT, is_whiteout
from lockstep.image.store import Store

BUILD_FOLDER = ".lockstep-build"
"""Where RUN steps find what they need for the build only, such as the certificate authorities."""

DROPPED = re.compile(
    rf"(.*/)?{re.escape(BUILD_FOLDER)}(\.Dockerfile|/.*)?|\.dockerenv|"
    r"(run|tmp|var/tmp|var/log|root/\.cache|var/cache/(apt|debconf|ldconfig)|var/lib/apt/lists)/.+|"
    r"var/lib/dpkg/[^/]+-old|etc/(hostname|hosts|resolv\.conf|mtab|machine-id|\.pwd\.lock|[a-z]+-)|"
    r"var/lib/(dbus/machine-id|systemd/random-seed)|(proc|sys|dev)/.+"
)
KEPT_HEADERS = "SCHILY.xattr."  # capabilities and the like; access times are of no use to anybody


def normalise(source: IO[bytes], store: Store) -> ImageLayer | None:
    """Put the layer in `source`, a tar, into the store, normalised; None if nothing is left."""
    with (
        store.home.workspace("normalise") as folder,
        tarfile.open(fileobj=source, mode="r:*") as tar,
    ):
        members = [member for member in tar if not _is_dropped(member.name)]
        if all(member.isdir() for member in members) and _only_parents(tar, members):
            return None
        path = folder / "layer.tar"
        with path.open("wb") as file:
            _write(tar, members, file)
        digest, size = digest_of_file(path)
        store.adopt(path, digest)
    return ImageLayer(digest, digest, LAYER, size)


def _is_dropped(name: str) -> bool:
    """Tell whether a path, or the path that a whiteout removes (OCI layer spec, "Whiteouts"), is left out."""
    clean = _clean(name)
    folder, _, last = clean.rpartition("/")
    removed = f"{folder}/{last.removeprefix('.wh.')}".lstrip("/")
    return DROPPED.fullmatch(clean) is not None or DROPPED.fullmatch(removed) is not None


def _only_parents(tar: tarfile.TarFile, members: list[tarfile.TarInfo]) -> bool:
    """Tell whether the folders that are left are there only because something in them was left out."""
    dropped = {_clean(member.name) for member in tar.getmembers()} - {_clean(x.name) for x in members}
    parents = {"", "."} | {path[:at] for path in dropped for at, letter in enumerate(path) if letter == "/"}
    return bool(dropped) and all(_clean(member.name) in parents for member in members)


def _write(tar: tarfile.TarFile, members: list[tarfile.TarInfo], file: IO[bytes]) -> None:
    """Write the members sorted by path; hard links come last, after what they link to.

    The first link to a file that is left out holds its content.
    """
    entries = {_clean(member.name): member for member in tar.getmembers()}
    for path, member in entries.items():
        member.name = path
        if member.islnk():
            member.linkname = _clean(member.linkname)
    kept = {_clean(member.name) for member in members} - {""}
    order = sorted(kept, key=lambda x: (entries[x].islnk(), x))
    settled = settle(order, entries)
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as out:
        for path in order:
            _check_whiteout(entries[path])
            original = settled_entry(path, entries, settled)
            content = tar.extractfile(original) if original.isreg() else None
            member = entries[path]
            member.mtime = EPOCH
            member.uname = member.gname = ""
            member.pax_headers = {k: v for k, v in member.pax_headers.items() if k.startswith(KEPT_HEADERS)}
            out.addfile(member, content)


def _check_whiteout(member: tarfile.TarInfo) -> None:
    """Raise SpecError for a whiteout's name that no removal has: the step made a file or folder of that name.

    A removal is an empty file (OCI layer spec, "Whiteouts"). A step that makes just that removes what it
    could have removed with `rm`.
    """
    folder, _, _ = member.name.rpartition("/")
    if is_whiteout(folder) or (is_whiteout(member.name) and not (member.isreg() and member.size == 0)):
        raise SpecError(
            f"A step of docker/Dockerfile makes {member.name!r}: a name that begins with {WHITEOUT} makes engines "
            "delete files of the layers below.",
            "Give it another name, or remove it in the same step.",
        )


def _clean(name: str) -> str:
    """Return a member's path without `./` and slashes around it; `""` for the root itself."""
    clean = name.strip("/")
    return "" if clean == "." else clean.removeprefix("./")


def digest_of_file(path: Path) -> tuple[str, int]:
    """Return a file's digest, "sha256:<hex>", and its size."""
    found, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
            size += len(chunk)
    return f"sha256:{found.hexdigest()}", size
