"""The base image's one layer and its OCI layout, out of mmdebstrap's tar.

Owners, modes and times of the operating system's files stay as they are. Entries are sorted, names lose
their `./`, and what depends on the machine that made it is left out.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

from lockstep.image.hardlinks import settle, settled_entry
from lockstep.image.layer import check_no_whiteout, is_whiteout
from lockstep.lock.locked import Bootstrap

_SOURCES = "etc/apt/sources.list"
_DROPPED = frozenset(
    {
        "etc/.pwd.lock",
        "etc/hostname",
        "etc/machine-id",
        "etc/resolv.conf",
        "var/cache/apt/archives/partial",  # apt makes these again; whose they are depends on whether
        "var/lib/apt/lists/partial",  # the user _apt could look into the folder that the base was made in
        "var/lib/dpkg/lock",
        "var/lib/dpkg/lock-frontend",
    }
)
_EMPTIED = (
    "dev/",
    "etc/apt/sources.list.d/",
    "proc/",
    "run/",
    "sys/",
    "tmp/",
    "var/cache/",
    "var/lib/apt/lists/",
    "var/log/",
    "var/tmp/",
)
"""Folders that stay, with the folders in them; their files go."""

_KEPT = frozenset({"var/cache/debconf/config.dat", "var/cache/debconf/templates.dat"})
"""What debconf knows of the packages' questions and answers; only its place makes it look like a cache."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class _Hashed:
    """A file that is hashed while it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self.size += len(data)
        return self.file.write(data)


def write_layout(rootfs: Path, layout: Path, record: Bootstrap) -> str:
    """Write an OCI image layout with one uncompressed layer to a new folder; return its manifest's digest.

    Source: OCI image-spec, image-layout.md, config.md and manifest.md.
    """
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    with (layout / "layer").open("wb") as file:
        hashed = _Hashed(file)
        _write_layer(rootfs, hashed, record)
    diff_id = f"sha256:{hashed.hash.hexdigest()}"
    (layout / "layer").replace(blobs / hashed.hash.hexdigest())
    created = datetime.fromtimestamp(record.epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    config = {
        "architecture": "amd64",
        "config": {"Cmd": ["bash"], "Env": [f"PATH={_PATH}"]},
        "created": created,
        "history": [{"created": created, "created_by": "mmdebstrap", "comment": "Debian packages"}],
        "os": "linux",
        "rootfs": {"diff_ids": [diff_id], "type": "layers"},
    }
    manifest = {
        "config": _blob(blobs, config, "application/vnd.oci.image.config.v1+json"),
        "layers": [
            {
                "digest": diff_id,
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "size": hashed.size,
            }
        ],
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "schemaVersion": 2,
    }
    entry = _blob(blobs, manifest, "application/vnd.oci.image.manifest.v1+json")
    index = {
        "manifests": [{**entry, "platform": {"architecture": "amd64", "os": "linux"}}],
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "schemaVersion": 2,
    }
    (layout / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    (layout / "index.json").write_bytes(_json(index))
    for path in [layout, *layout.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return str(entry["digest"])


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _blob(blobs: Path, value: object, media_type: str) -> dict[str, Any]:
    data = _json(value)
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "mediaType": media_type, "size": len(data)}


def _write_layer(rootfs: Path, target: _Hashed, record: Bootstrap) -> None:
    sources = "".join(f"{line}\n" for line in record.sources).encode()
    with (
        tarfile.open(rootfs, "r:") as source,
        tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as layer,  # type: ignore[call-overload]
    ):
        members = {member.name.removeprefix("./"): member for member in source}
        for member in members.values():
            if member.islnk():
                member.linkname = member.linkname.removeprefix("./")
        names = sorted({*members, _SOURCES})
        settled = settle([x for x in names if x in members and not _is_dropped(x, members[x])], members)
        for name in names:
            if name == _SOURCES:
                layer.addfile(_sources_entry(len(sources), record.epoch), io.BytesIO(sources))
                continue
            member = members[name]
            if name in (".", "") or _is_dropped(name, member):
                continue
            check_no_whiteout(_owner(name, source, members), name)
            content = settled_entry(name, members, settled)
            data = source.extractfile(content) if content.isreg() else None
            member.name = name
            member.mtime = min(int(member.mtime), record.epoch)
            member.uname = member.gname = ""
            member.pax_headers = {
                key: value for key, value in member.pax_headers.items() if key.startswith("SCHILY.xattr.")
            }
            layer.addfile(member, data)


def _owner(name: str, source: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo]) -> str:
    """Return the Debian package that a whiteout's name came with, in words; dpkg lists what each installed."""
    for path, member in members.items() if is_whiteout(name) else ():
        if path.startswith("var/lib/dpkg/info/") and path.endswith(".list") and member.isreg():
            file = source.extractfile(member)
            if file and f"/{name}" in file.read().decode(errors="replace").splitlines():
                return f"The Debian package {path.rpartition('/')[2].removesuffix('.list')}"
    return "A Debian package"


def _sources_entry(size: int, epoch: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(_SOURCES)
    entry.size, entry.mtime, entry.mode = size, epoch, 0o644
    return entry


def _is_dropped(name: str, member: tarfile.TarInfo) -> bool:
    if name in _DROPPED:
        return True
    if member.isdir() or name in _KEPT:
        return False
    if name.startswith(_EMPTIED) or name.endswith("-old"):
        return True
    return member.ischr() or member.isblk()
