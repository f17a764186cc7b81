"""CIFAR-10: the tutorial's file, unpacked into images; its pickles are read without numpy or trust."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import pickle
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lockstep.datasets.dataset import ANY_DATA, Dataset, add_image, new_dataset, png, read_dataset
from lockstep.errors import JobError
from lockstep.fetch import fetch_url
from lockstep.home import Home
from lockstep.progress import SILENT, Progress, Task

NAME = "cifar10"
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
SIZE = 170_498_071
_BROKEN = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


def make_cifar10(
    data: Path, home: Home, progress: Progress = SILENT, *, source: Path | None = None
) -> Dataset:
    """Make data/cifar10 from the tutorial's file, fetched or given as `source`; 50,000 and 10,000 PNGs.

    Raises FetchError, IntegrityError or JobError. Nothing happens if it is there.
    """
    with new_dataset(data, NAME) as folder:
        if folder is not None:
            archive = source or fetch_url(URL, SHA256, SIZE, home, progress)
            with progress.task("Writing CIFAR-10 as images", 60_000, unit="images") as task:
                _write_cifar10(archive, folder, task)
    return read_dataset(data / NAME)


def _write_cifar10(archive: Path, folder: Path, task: Task) -> None:
    with open_tar(archive) as tar:
        batches = {PurePosixPath(member.name).name: member for member in tar.getmembers() if member.isreg()}

        def load(name: str) -> dict[bytes, Any]:
            file = tar.extractfile(batches[name]) if name in batches else None
            if file is None:
                raise JobError(f"{archive} lacks {name}, so it isn't CIFAR-10's file.", ANY_DATA)
            return _load_cifar_batch(file.read(), f"{archive}: {name}")

        names = [name.decode() for name in load("batches.meta")[b"label_names"]]
        for split, parts in (
            ("train", [f"data_batch_{part}" for part in range(1, 6)]),
            ("test", ["test_batch"]),
        ):
            index = 0
            for part in parts:
                batch = load(part)
                pixels = memoryview(batch[b"data"].content)
                for row, label in enumerate(batch[b"labels"]):
                    planes = pixels[row * 3072 : (row + 1) * 3072]
                    rgb = bytearray(3072)
                    for colour in range(3):
                        rgb[colour::3] = planes[colour * 1024 : (colour + 1) * 1024]
                    add_image(folder, split, names[label], f"{index:05}.png", png(bytes(rgb)))
                    index += 1
                    task.advance()


class _Array:
    """Stands for a numpy array in a pickle: its bytes are all that is wanted."""

    content = b""

    def __setstate__(self, state: Sequence[Any]) -> None:
        self.content = state[4]  # version, shape, dtype, order, bytes


class _Dtype:
    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


class _Unpickler(pickle.Unpickler):
    """Reads CIFAR-10's pickles without numpy, and can make nothing but what they hold."""

    _known: dict[tuple[str, str], Callable[..., Any]] = {  # noqa: RUF012 - a constant
        ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._known[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it wants to make a {module}.{name}") from None


def _load_cifar_batch(content: bytes, what: str) -> dict[bytes, Any]:
    try:
        loaded = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a broken pickle raises nearly anything
        raise JobError(f"{what} can't be read: {error}.", "Download CIFAR-10's file again.") from error
    if not isinstance(loaded, dict):
        raise JobError(f"{what} holds no batch of images.", "Download CIFAR-10's file again.")
    return loaded


def is_cifar10(source: Path) -> bool:
    """Tell whether an archive is CIFAR-10's own file."""
    with open_tar(source) as tar:
        first = next((member.name for member in tar), "")
    return first.startswith("cifar-10-batches-py")


@contextlib.contextmanager
def open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """Give an archive of any compression. Raises JobError if it is none, can't be read or is broken."""
    try:
        archive = tarfile.open(path)  # noqa: SIM115 - opening and reading fail in different words
    except (*_BROKEN, OSError) as error:
        raise JobError(f"{path} can't be read as a tar archive: {error}.", ANY_DATA) from error
    with archive:
        try:
            yield archive
        except _BROKEN as error:
            raise JobError(f"{path} is broken: {error}.", "Get it again.") from error
