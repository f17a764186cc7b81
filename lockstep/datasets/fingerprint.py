"""Fingerprint: which bytes a dataset is, remembered so that 60,000 files aren't read for every run."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from lockstep.errors import DamagedError, JobError
from lockstep.home import Home
from lockstep.seal import read_record, sealed

_FORMAT = 1
_SETTLED_SECONDS = 2.0


def fingerprint(folder: Path, home: Home) -> str:
    """Return a hash of every file's path and content under `folder`, as `sha256:<hex>`.

    Remembered in `home` for as long as no file's size, change time or name changes.
    """
    if not folder.is_dir():
        raise JobError(
            f"{folder} isn't a folder.", "`./invoke data` makes a dataset; `--source PATH` takes yours."
        )
    listing, newest = _listing(folder)
    key = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()
    remembered = home.fingerprints / f"{key}.json"
    with contextlib.suppress(DamagedError):  # then it is computed again, as if a file had changed
        known = read_record(remembered)
        if known and (known["format"], known["listing"]) == (_FORMAT, listing):
            return str(known["fingerprint"])
    digest = hashlib.sha256()
    for path, _ in sorted(_files(str(folder))):
        digest.update(_content_hash(folder / path).encode() + b" " + os.fsencode(path) + b"\n")
    found = f"sha256:{digest.hexdigest()}"
    # a file that changed just now may change again within the clock's step, unseen
    if time.time() - newest > _SETTLED_SECONDS and _listing(folder)[0] == listing:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        part = remembered.with_suffix(f".{os.getpid()}.part")
        value = {"format": _FORMAT, "listing": listing, "fingerprint": found}
        part.write_bytes(sealed(remembered, value))
        part.replace(remembered)
    return found


def _files(folder: str, inside: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Yield the path and the state of each file and link under a folder; links aren't followed."""
    for entry in os.scandir(f"{folder}/{inside}"):
        path = f"{inside}/{entry.name}" if inside else entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _files(folder, path)
        else:
            yield path, entry.stat(follow_symlinks=False)


def _listing(folder: Path) -> tuple[str, float]:
    """Return a hash of names, sizes and change times, and the newest change (seconds since 1970)."""
    lines = []
    newest = 0
    for path, state in _files(str(folder)):
        lines.append(f"{path}\0{state.st_size} {state.st_ctime_ns} {state.st_ino}")
        newest = max(newest, state.st_ctime_ns)
    lines.sort()
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest(), newest / 1e9


def _content_hash(path: Path) -> str:
    if path.is_symlink():
        return hashlib.sha256(b"link " + os.fsencode(os.readlink(path))).hexdigest()
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
