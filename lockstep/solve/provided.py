"""What conda provides: pip must not resolve it again, yet must agree with it.

Each conda package that holds a Python distribution becomes an empty wheel of that name and version with
the local label `+conda`, in a folder that uv looks in, and a constraint on exactly that. So uv checks
every requirement against it and explains a conflict, and never chooses another one.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from lockstep.lock.locked import LockedPackage

_NAMES = {
    "brotli-python": ("brotli",),
    "dask-core": ("dask",),
    "faiss": ("faiss-cpu", "faiss-gpu"),
    "faiss-cpu": ("faiss-cpu",),
    "importlib-metadata": ("importlib-metadata",),
    "lightgbm": ("lightgbm",),
    "matplotlib-base": ("matplotlib",),
    "msgpack-python": ("msgpack",),
    "opencv": ("opencv-python", "opencv-python-headless", "opencv-contrib-python"),
    "polars-default": ("polars",),
    "py-lightgbm": ("lightgbm",),
    "py-opencv": ("opencv-python", "opencv-python-headless", "opencv-contrib-python"),
    "py-xgboost": ("xgboost",),
    "py-xgboost-cpu": ("xgboost",),
    "py-xgboost-gpu": ("xgboost",),
    "pyarrow-core": ("pyarrow",),
    "pyqt": ("pyqt5",),
    "pytables": ("tables",),
    "python-duckdb": ("duckdb",),
    "python-fastjsonschema": ("fastjsonschema",),
    "python-flatbuffers": ("flatbuffers",),
    "python-graphviz": ("graphviz",),
    "python-kaleido": ("kaleido",),
    "python-lmdb": ("lmdb",),
    "python-snappy": ("python-snappy",),
    "python-tzdata": ("tzdata",),
    "python-xxhash": ("xxhash",),
    "pytorch": ("torch",),
    "pytorch-cpu": (),
    "pytorch-gpu": (),
    "pytorch-mutex": (),
    "seaborn-base": ("seaborn",),
    "tensorflow-base": ("tensorflow", "tensorflow-cpu"),
    "tensorflow-cpu": (),
    "tensorflow-gpu": (),
}
"""conda's name -> the names on the index, where the two differ. All others are called the same."""

_NOT_A_DISTRIBUTION = {"python-abi", "python-gil", "python-freethreading", "cpython"}


def provided(packages: Iterable[LockedPackage]) -> dict[str, str]:
    """Return the distributions that conda packages hold: the index's name -> version, labelled `+conda`."""
    found: dict[str, str] = {}
    for package in packages:
        name = canonicalize_name(package.name)
        if name in _NOT_A_DISTRIBUTION or "python" not in dict(package.dependencies):
            continue
        try:
            version = Version(package.version.replace("_", "."))
        except InvalidVersion:
            continue  # the image's check for files of two owners has the last word
        local = f"{version.local}.conda" if version.local else "conda"
        for known in _NAMES.get(name, (name,)):
            found[known] = f"{version.public}+{local}"
    return found


def write_stubs(distributions: dict[str, str], folder: Path) -> None:
    """Write one empty wheel for each distribution (PEP 427)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, version in distributions.items():
        stem = f"{name.replace('-', '_')}-{version}"
        with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
            info = f"{stem}.dist-info"
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            wheel.writestr(
                f"{info}/WHEEL",
                "Wheel-Version: 1.0\nGenerator: lockstep\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            )
            wheel.writestr(f"{info}/RECORD", "")
