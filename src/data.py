"""Images in class folders, decoded once into memory.

    data/train/<class>/<image>.png      also .jpg, .jpeg, .bmp
    data/test/<class>/<image>.png       may be absent

Labels are the positions of the class names in sorted order. `start_reading` forks child processes that
decode into shared memory, and returns at once: the caller imports torch, which takes seconds,
meanwhile. So this module imports neither torch nor Pillow at its top.
"""

from __future__ import annotations

import io
import mmap
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SIDE = 32  # pixels; images of another size are resized
BYTES = SIDE * SIDE * 3
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp")
CHUNK = 4096  # images normalised at once: one pass over 50 MB costs less than a pass for each batch
SAY_EVERY = 5.0  # seconds between progress lines


class DataError(Exception):
    """The folder holds no images in class folders, or a broken one; the text says which."""


@dataclass(frozen=True)
class Images:
    """A split in memory: `pixels` uint8 of shape (N, 3, 32, 32), `labels` int64 of shape (N,)."""

    pixels: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Images:
        return Images(self.pixels.to(device), self.labels.to(device))

    def batches(
        self, order: torch.Tensor, size: int, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Give this process's share of each batch of `size` images, in `order`, pixels in [-1, 1].

        Process `rank` of `world` gets a `world`-th of every batch, so that all of them together train
        on the batches that one process alone would. The last batch may be smaller, and a share of it
        empty. `size` is a multiple of `world`.
        """
        share = size // world
        whole = len(order) // size * size
        mine = order[:whole].view(-1, size)[:, rank * share : (rank + 1) * share].reshape(-1)
        for chunk in mine.split(max(1, CHUNK // share) * share) if whole else ():
            pixels = normalise(self.pixels[chunk])
            yield from zip(pixels.split(share), self.labels[chunk].split(share), strict=True)
        if whole < len(order):
            rest = order[whole:].tensor_split(world)[rank]
            yield normalise(self.pixels[rest]), self.labels[rest]


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Return float pixels in [-1, 1]: mean 0.5 and deviation 0.5, as the tutorial's loss table has it."""
    return pixels.float().div_(127.5).sub_(1.0)


class Reading:
    """A split being decoded by child processes; `result` waits for them.

    `niceness` keeps a split that isn't needed soon out of the way of one that is.
    """

    def __init__(self, name: str, files: list[tuple[str, int]], processes: int, niceness: int = 0) -> None:
        self.name = name
        self.files = files
        self._niceness = niceness
        self._pixels = mmap.mmap(-1, max(1, len(files)) * BYTES)  # anonymous and shared with the children
        share = -(-len(files) // processes) or 1
        starts = range(0, len(files), share)
        self._progress = mmap.mmap(-1, 8 * max(1, len(starts)))
        self._children = [
            self._fork(slot, range(start, min(start + share, len(files))))
            for slot, start in enumerate(starts)
        ]

    def _fork(self, slot: int, indices: range) -> tuple[int, int]:
        """Return the pid of a child that decodes `indices` and the pipe on which it complains."""
        complaint, write_end = os.pipe()
        pid = os.fork()
        if pid:
            os.close(write_end)
            return pid, complaint
        status = 1
        try:
            os.nice(self._niceness)
            for done, index in enumerate(indices, 1):
                path = self.files[index][0]
                try:
                    self._pixels[index * BYTES : (index + 1) * BYTES] = decode(path)
                except Exception as error:  # Pillow raises many kinds for a broken file
                    os.write(write_end, f"{path} can't be read as an image: {error}".encode()[:4000])
                    break
                if done % 256 == 0:
                    self._progress[slot * 8 : slot * 8 + 8] = done.to_bytes(8, "little")
            else:
                status = 0
        finally:
            os._exit(status)  # nothing of the parent's (buffers, handlers) may run twice

    def result(self, *, talk: bool = True) -> Images:
        """Wait for the decoding and return the images. Raises DataError naming a broken file."""
        import torch

        said = time.monotonic()
        for pid, complaint in self._children:
            while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
                time.sleep(0.005)
                if talk and time.monotonic() - said > SAY_EVERY:
                    said = time.monotonic()
                    total = len(self.files)
                    print(f"decoded {self._decoded():,} of {total:,} {self.name} images", flush=True)
            with open(complaint, "rb") as pipe:
                text = pipe.read().decode(errors="replace")
            if ended[1]:
                raise DataError(text or f"a process that decodes {self.name} images was killed (memory?)")
        count = len(self.files)
        pixels = torch.frombuffer(self._pixels, dtype=torch.uint8)[: count * BYTES].view(count, SIDE, SIDE, 3)
        labels = torch.tensor([label for _, label in self.files])
        return Images(pixels.permute(0, 3, 1, 2).contiguous(), labels)

    def _decoded(self) -> int:
        return sum(memoryview(self._progress).cast("Q"))


def decode(path: str) -> bytes:
    """Return an image's 32 x 32 RGB pixels, row by row."""
    from PIL import Image  # type: ignore[import-not-found]  # Pillow is in the image

    with open(path, "rb") as file:
        image = Image.open(io.BytesIO(file.read()))
    if image.mode != "RGB":
        image = image.convert("RGB")
    if image.size != (SIDE, SIDE):
        image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels: bytes = image.tobytes()
    return pixels


def start_reading(folder: Path, processes: int) -> tuple[list[str], Reading, Reading | None]:
    """Return the class names, and the train split and the test split (None if absent), being decoded.

    Raises DataError if there are no images, or if test has a class that train lacks.
    """
    train = folder / "train"
    if not train.is_dir():
        raise DataError(f"{folder} has no train/ folder; expected {folder}/train/<class>/<image>.png")
    classes = list_classes(train)
    files = list_images(train, classes)
    if not files:
        raise DataError(f"{train} holds no images; expected {train}/<class>/<image>{'|'.join(EXTENSIONS)}")
    test = folder / "test"
    test_files = list_images(test, classes) if test.is_dir() else []
    reading = Reading("train", files, processes)
    return classes, reading, Reading("test", test_files, processes, niceness=10) if test_files else None


def list_classes(split: Path) -> list[str]:
    """Return the names of the class folders, sorted by code point."""
    return sorted(entry.name for entry in os.scandir(split) if entry.is_dir() and entry.name[0] != ".")


def list_images(split: Path, classes: list[str]) -> list[tuple[str, int]]:
    """Return each image's path and label, sorted by class, then by name."""
    for name in list_classes(split):
        if name not in classes:
            raise DataError(f"{split} has the class {name!r}, which the train images lack")
    files = []
    for label, name in enumerate(classes):
        folder = os.path.join(split, name)
        if not os.path.isdir(folder):
            continue
        images = [name for name in os.listdir(folder) if name.lower().endswith(EXTENSIONS) and name[0] != "."]
        files += [(os.path.join(folder, image), label) for image in sorted(images)]
    return files
