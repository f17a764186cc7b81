"""Which dataset a job trains on, where the settings leave it open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lockstep.datasets import cifar10, digits
from lockstep.datasets.cifar10 import make_cifar10
from lockstep.datasets.dataset import ANY_DATA, Dataset, list_datasets
from lockstep.datasets.digits import make_digits
from lockstep.errors import JobError
from lockstep.home import Home
from lockstep.progress import SILENT, Progress
from lockstep.servers import read_servers

_PROBE_SECONDS = 5.0


def choose_dataset(data: Path, wanted: str, home: Home, progress: Progress = SILENT) -> Path:
    """Return the folder of the dataset to train on, made now if need be.

    `wanted` is a name under `data` or the path of a folder. Without one: CIFAR-10 if it is there, else
    the newest that is there, else CIFAR-10 if its site can be reached, else the digits; the choice is said.
    """
    if found := find_dataset(data, wanted):
        return found
    if wanted:
        return _made(data, wanted, home, progress)
    if is_reachable(cifar10.URL):
        return make_cifar10(data, home, progress).folder
    progress.say(
        "CIFAR-10 can't be downloaded from here: taking scikit-learn's 1,797 handwritten digits instead. "
        + ANY_DATA
    )
    return make_digits(data, home, progress).folder


def find_dataset(data: Path, wanted: str) -> Path | None:
    """Return the folder that `choose_dataset` takes, if it is there already. Makes and fetches nothing."""
    if wanted:
        places = (data / wanted, data.parent / wanted)
        return next((folder for folder in places if (folder / "train").is_dir()), None)
    there = list_datasets(data)
    if not there:
        return None
    return data / cifar10.NAME if data / cifar10.NAME in there else there[-1]


def _made(data: Path, wanted: str, home: Home, progress: Progress) -> Path:
    makers: dict[str, Callable[[Path, Home, Progress], Dataset]] = {
        cifar10.NAME: make_cifar10,
        digits.NAME: make_digits,
    }
    if wanted in makers:
        return makers[wanted](data, home, progress).folder
    there = ", ".join(path.name for path in list_datasets(data)) or "none"
    raise JobError(f"There is no dataset {wanted!r}; under {data} there are: {there}.", ANY_DATA)


def is_reachable(url: str) -> bool:
    """Tell within seconds whether a URL answers from here."""
    import httpx

    try:
        with read_servers().client() as client:
            return bool(client.head(url, timeout=_PROBE_SECONDS).is_success)
    except httpx.HTTPError:
        return False
