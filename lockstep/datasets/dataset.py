"""A dataset: images in class folders under data/, made whole or not at all.

data/<name>/train/<class>/<image>       png, jpg, jpeg or bmp
data/<name>/test/<class>/<image>        may be absent
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from lockstep.errors import JobError
from lockstep.home import disk_full_in_words

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp")
ANY_DATA = "`./invoke data --from PATH` takes a folder or a tar.gz with train/<class>/<image>.png in it."
SPLITS = ("train", "test")
SIDE = 32  # pixels of an image that we write


@dataclass(frozen=True)
class Dataset:
    """A dataset on disk: how many images each split has, and the names of the classes."""

    name: str
    folder: Path
    train: int
    test: int
    classes: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """Return what `data --json` prints."""
        return {**asdict(self), "folder": str(self.folder)}

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.train:,} train and {self.test:,} test images of {len(self.classes)} classes"
        )


def read_dataset(folder: Path) -> Dataset:
    """Count the images of a folder. Raises JobError if it has none under train/<class>/."""
    counts: dict[str, int] = {}
    classes: dict[str, None] = {}
    for split in SPLITS:
        counts[split] = 0
        for kind in sorted(_folders(folder / split)):
            inside = sum(name.lower().endswith(EXTENSIONS) for name in os.listdir(folder / split / kind))
            counts[split] += inside
            if inside:
                classes[kind] = None
    if not counts["train"]:
        raise JobError(
            f"{folder} holds no images; expected {folder}/train/<class>/<image>.png (or .jpg, .bmp).",
            "`./invoke data --from PATH` takes a folder or a tar.gz of such images.",
        )
    return Dataset(folder.name, folder, counts["train"], counts["test"], tuple(sorted(classes)))


def list_datasets(data: Path) -> tuple[Path, ...]:
    """Return the folders of the datasets under `data`, the newest last."""
    found = [path for path in map(data.joinpath, _folders(data)) if (path / "train").is_dir()]
    return tuple(sorted(found, key=lambda path: (path.stat().st_mtime, path.name)))


def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return [entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]


@contextlib.contextmanager
def new_dataset(data: Path, name: str) -> Iterator[Path | None]:
    """Give an empty folder that becomes `data/<name>` when the block ends well; None if that is there.

    One process at a time makes it; the others wait. What a killed one left is removed.
    """
    data.mkdir(parents=True, exist_ok=True)
    part = data / f".{name}.part"
    with (data / f".{name}.lock").open("w") as held, disk_full_in_words(data):
        fcntl.flock(held, fcntl.LOCK_EX)
        if (data / name).exists():
            yield None
            return
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        part.chmod(0o755)  # the container may run as anybody, whatever the umask
        try:
            yield part
            read_dataset(part)
            part.rename(data / name)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def add_image(folder: Path, split: str, kind: str, name: str, content: bytes) -> None:
    """Write one image of a dataset that is being made, readable by all. Raises JobError if it is there."""
    parent = folder / split / kind
    if not parent.is_dir():
        for each in (folder / split, parent):
            each.mkdir(exist_ok=True)
            each.chmod(0o755)
    try:
        file = os.open(parent / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        raise JobError(f"Two images are called {split}/{kind}/{name}.", "Rename one of them.") from None
    with open(file, "wb") as target:
        os.fchmod(file, 0o644)
        target.write(content)


def png(rgb: bytes) -> bytes:
    """Return a 32x32 image as PNG (ISO 15948): always the same bytes, and stored rather than deflated.

    At 3 KB that costs nothing, and is read fastest.
    """

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    width = SIDE * 3
    rows = b"".join(b"\0" + rgb[start : start + width] for start in range(0, len(rgb), width))
    size = len(rows)  # one stored block, by hand: zlib's versions may differ (RFC 1950, RFC 1951)
    stream = (
        b"\x78\x01\x01"
        + struct.pack("<HH", size, size ^ 0xFFFF)
        + rows
        + struct.pack(">I", zlib.adler32(rows))
    )
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)  # 8 bits, RGB
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", stream) + chunk(b"IEND", b"")
