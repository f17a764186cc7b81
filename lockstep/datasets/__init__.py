"""Datasets: images in class folders under data/, where they come from, which one is taken, which bytes it is.

choose_dataset(data, wanted, …)     the folder to train on, made now if need be
find_dataset(data, wanted)          the same folder, if it is there already
make_cifar10, make_digits, import_images     the three ways to one
fingerprint(folder, home)           which bytes it is
"""

from lockstep.datasets.choice import choose_dataset, find_dataset, is_reachable
from lockstep.datasets.cifar10 import make_cifar10
from lockstep.datasets.dataset import Dataset, list_datasets, read_dataset
from lockstep.datasets.digits import make_digits
from lockstep.datasets.fingerprint import fingerprint
from lockstep.datasets.images import import_images

__all__ = [
    "Dataset",
    "choose_dataset",
    "find_dataset",
    "fingerprint",
    "import_images",
    "is_reachable",
    "list_datasets",
    "make_cifar10",
    "make_digits",
    "read_dataset",
]
