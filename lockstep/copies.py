"""Copies: what a job left, brought elsewhere; links and special files stay behind, and no disk is filled."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from lockstep.root import Root, UnsafeNameError

FILES = 1_000_000
SIZE = 256 * 1024**3
"""At most so many files, and so many bytes, are brought from one run's folder."""
RESERVE = 1024**3
"""Bytes that stay free on the disk; on a small one, a twentieth of it."""
SHOWN = 20
_PIECE = 1024**2


class Readable(Protocol):
    """A file or a stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most `size`; none at the end."""
        ...


@dataclass
class LeftOut:
    """What stayed behind, and why; names are the job's own, so no path of this machine is in them."""

    reasons: list[tuple[str, str]] = field(default_factory=list)
    count: int = 0

    def add(self, name: str, reason: str) -> None:
        """Note that `name` stayed behind."""
        self.count += 1
        if len(self.reasons) < SHOWN:
            self.reasons.append((name, reason))

    def lines(self, what: str) -> Iterator[str]:
        """Yield a line for each of the first, and how many more there are; `what` is where they were left out."""
        for name, reason in self.reasons:
            yield f"Lockstep left out of {what}: {ascii(name)[:200]}, {reason}."
        if self.count > len(self.reasons):
            yield f"Lockstep left out of {what}: {self.count - len(self.reasons):,} more."


@dataclass
class Allowance:
    """How much may still be brought: files, bytes, and bytes of disk (None: nothing is written)."""

    files: int = FILES
    size: int = SIZE
    disk: int | None = None

    @classmethod
    def on(cls, disk: Path) -> Allowance:
        """Return the allowance for writing to the disk that holds the folder `disk`."""
        usage = shutil.disk_usage(disk)
        return cls(disk=max(usage.free - min(RESERVE, usage.total // 20), 0))

    @property
    def most(self) -> int:
        """How many bytes the next file may have."""
        return self.size if self.disk is None else min(self.size, self.disk)

    def refusal(self, size: int) -> str:
        """Take a file of `size` bytes off; or return why it is too much, and take nothing."""
        if self.files < 1:
            return f"there are more than {FILES:,} files"
        if size > self.size:
            return f"with it there would be more than {SIZE >> 30} GiB"
        if self.disk is not None and size > self.disk:
            return "the disk has no room for it"
        self.files -= 1
        self.size -= size
        if self.disk is not None:
            self.disk -= size
        return ""

    def refund(self, size: int) -> None:
        """Put back what a copy that was broken off had taken."""
        self.files += 1
        self.size += size
        if self.disk is not None:
            self.disk += size


def allowed(
    source: Root, below: str, allowance: Allowance, left_out: LeftOut
) -> Iterator[tuple[str, BinaryIO, int]]:
    """Yield name, open file and size of each regular file below a folder that may be brought.

    A file is to be read up to that size: it may be growing. All else is added to `left_out`.
    """
    for entry in source.entries(below):
        reason = entry.reason
        if reason:
            left_out.add(entry.name, reason)
            continue
        try:
            file = source.open(entry.name)
        except OSError as error:
            left_out.add(entry.name, f"can't be read ({error.strerror})")
            continue
        with file:
            size = os.fstat(file.fileno()).st_size
            if reason := allowance.refusal(size):
                left_out.add(entry.name, reason)
            else:
                yield entry.name, file, size


def copy_files(source: Root, below: str, target: Root, to: str, work: Path) -> LeftOut:
    """Copy the regular files below a folder to `to` ("": the root) of `target`; return what was left out.

    `work` is a folder of ours on the target's disk. A full disk raises OSError (ENOSPC); nothing else that the
    folder's owner can do makes this fail.
    """
    left_out = LeftOut()
    for name, file, size in allowed(source, below, Allowance.on(work), left_out):
        inner = name.removeprefix(below).strip("/")
        with partial_file(work) as partial:
            with partial.open("wb") as copy:
                copy_bytes(file, copy, size)
            try:
                target.put(partial, f"{to}/{inner}" if to else inner)
            except (NotADirectoryError, IsADirectoryError):
                left_out.add(
                    name, "there is a folder where it would be a file, or a file where its folder would be"
                )
            except UnsafeNameError:
                left_out.add(name, "its path is too long there")
    return left_out


@contextlib.contextmanager
def partial_file(work: Path) -> Iterator[Path]:
    """Give a new name in `work`, and remove what is left there at the end."""
    partial = work / f".{uuid.uuid4().hex}.part"
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def copy_bytes(source: Readable, target: BinaryIO, size: int) -> int:
    """Copy at most `size` bytes, and return how many there were."""
    left = size
    while left > 0 and (piece := source.read(min(_PIECE, left))):
        target.write(piece)
        left -= len(piece)
    return size - left
