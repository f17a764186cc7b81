"""Seal: a hash beside what has no name to be checked against: small records, and folders of many files.

A record is a JSON object; its member `seal` is the sha256 of its file's name and of everything else in it.
A folder is sealed by a file `SHA256SUMS` in it, which lists every file (the format of `sha256sum`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lockstep.damage import SHORT, damaged, hash_of, is_there

_SUMS = "SHA256SUMS"


def sealed(path: Path, value: Mapping[str, Any]) -> bytes:
    """Return the bytes of the record that is to lie at `path`; `value` is what JSON can hold."""
    return json.dumps({**value, "seal": _seal(path, value)}, separators=(",", ":")).encode()


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the record at `path`, or None if there is none, or one without a seal.

    Raises DamagedError if the seal is broken, or what is there is no record.
    """
    if not is_there(path):
        return None
    try:
        value = json.loads(path.read_bytes())
        seal = value.pop("seal", None) if isinstance(value, dict) else None
    except FileNotFoundError:  # another process put it aside
        return None
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, OSError) and error.errno in SHORT:
            raise
        raise damaged(path, "expected a sealed record, found something else") from error
    if seal is None:  # of a version that didn't seal
        return None
    if seal != _seal(path, value):
        raise damaged(path, "its seal is broken")
    return dict(value)


def _seal(path: Path, value: Mapping[str, Any]) -> str:
    """Return the seal: over the name too, so that a record in another's place is found."""
    named = [path.parent.name, path.name, value]
    return hashlib.sha256(json.dumps(named, separators=(",", ":")).encode()).hexdigest()


def seal_folder(folder: Path) -> None:
    """Write down what the folder holds; nothing in it may change while it is sealed."""
    sums = "".join(f"{found}  {path}\n" for path, found in sorted(_hashes(folder)))
    (folder / _SUMS).write_text(sums, encoding="utf-8", errors="surrogateescape")


def unseal_folder(folder: Path) -> None:
    """Take the seal off: what the folder holds is going to change."""
    (folder / _SUMS).unlink()


def is_sealed(folder: Path) -> bool:
    """Say whether a finished folder is there."""
    return (folder / _SUMS).exists()


def check_folder(folder: Path) -> None:
    """Read the folder; raise DamagedError, with all of it put aside, unless it is as it was sealed."""
    try:
        lines = (folder / _SUMS).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        if error.errno in SHORT:
            raise
        raise damaged(folder, "it isn't sealed") from error
    stated = {path: found for found, _, path in (line.partition("  ") for line in lines)}
    found = dict(_hashes(folder))
    if different := sorted(path for path, _ in stated.items() ^ found.items()):
        raise damaged(folder, f"{different[0]!r} in it isn't what it was")


def _hashes(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield each file's path, relative to the folder, and its sha256; that of a link is of its target's name."""
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root, name)
            if path.is_symlink():
                found = hashlib.sha256(b"link " + os.fsencode(os.readlink(path))).hexdigest()
            elif path.is_file():
                found = hash_of(path)
            else:
                continue
            if (inside := str(path.relative_to(folder))) != _SUMS:
                yield inside, found
