"""Digits: scikit-learn's 1,797 real handwritten ones, for machines that can't download CIFAR-10.

They come out of scikit-learn's wheel, which any package index has, so no site but the index is needed.
"""

from __future__ import annotations

import gzip
import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path

from lockstep.damage import is_whole, repaired
from lockstep.datasets.dataset import SIDE, Dataset, add_image, new_dataset, png, read_dataset
from lockstep.errors import IntegrityError
from lockstep.fetch import fetch_url
from lockstep.home import Home
from lockstep.progress import SILENT, Progress
from lockstep.servers import Servers, read_servers

NAME = "digits"
_WHEEL = "scikit-learn==1.9.1"
_WHEEL_SHA256 = "52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df"
_FILE = "sklearn/datasets/data/digits.csv.gz"
_FILE_SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"


def make_digits(
    data: Path, home: Home, progress: Progress = SILENT, *, servers: Servers | None = None
) -> Dataset:
    """Make data/digits: scikit-learn's 1,797 digits, 8x8 grey, as 32x32 colour; every fifth is for test.

    They come out of scikit-learn's wheel, from the index that this machine uses. Nothing happens if the
    dataset is there.
    """
    with new_dataset(data, NAME) as folder:
        if folder is not None:
            content = repaired(lambda: _digits_file(home, progress, servers), progress)
            rows = gzip.decompress(content).decode().splitlines()
            for index, row in enumerate(rows):
                *greys, label = (int(float(value)) for value in row.split(","))
                split = "test" if index % 5 == 4 else "train"
                add_image(folder, split, str(label), f"{index:04}.png", png(_enlarge(greys)))
    return read_dataset(data / NAME)


def _digits_file(home: Home, progress: Progress, servers: Servers | None) -> bytes:
    from lockstep.solve.pypi import solve_pypi
    from lockstep.spec import PipOptions, Spec

    servers = servers or read_servers()
    wheel = home.package(_WHEEL_SHA256)
    if not is_whole(wheel, _WHEEL_SHA256):
        progress.say("Fetching scikit-learn's wheel for its images of digits (9 MB).")
        spec = Spec(
            name=NAME,
            channels=(),
            conda=(),
            pip=(f"{_WHEEL} --hash=sha256:{_WHEEL_SHA256}",),
            pip_options=PipOptions(),
            variables=(),
            dockerfile="",
            base="",
            platform="linux-64",
            virtual_packages=(("__glibc", "2.36"),),
        )
        locked = solve_pypi(spec, "3.11", {}, servers=servers, home=home)
        found = next(package for package in locked.packages if package.name == "scikit-learn")
        fetch_url(found.url, found.sha256, found.size, home, progress, servers=servers)
    with zipfile.ZipFile(wheel) as archive:
        content = archive.read(_FILE)
    if hashlib.sha256(content).hexdigest() != _FILE_SHA256:
        raise IntegrityError(f"{_FILE} in {wheel} isn't what it was.", "Remove that file and try again.")
    return content


def _enlarge(greys: Sequence[int]) -> bytes:
    """Return 32x32 RGB pixels from 8x8 of 0 to 16: each becomes a square of four by four."""
    scale = SIDE // 8
    lines = [greys[start : start + 8] for start in range(0, 64, 8)]
    return b"".join(
        b"".join(bytes([grey * 255 // 16]) * 3 * scale for grey in line) * scale for line in lines
    )
