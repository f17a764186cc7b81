"""Blob: one entry's content, out of a layer in the store."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

READ = 1 << 18


def content_of(blob: Path, start: int, end: int) -> Iterator[bytes]:
    """Yield the content of the file whose header begins at `start`; its padding ends at `end`."""
    with blob.open("rb") as file:
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            entry = archive.next()
            content = archive.extractfile(entry) if entry is not None else None
            assert content is not None, f"no file at {start} to {end}"
            while chunk := content.read(READ):
                yield chunk
