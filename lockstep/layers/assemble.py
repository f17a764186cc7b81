"""Assemble: a lock's packages become layers, each made once on this machine.

A package's layer follows from its bytes, the layer format and the Python that compiles for it, so every
environment that holds the package shares it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING

from lockstep.home import Home
from lockstep.image.layer import FORMAT, LARGE, Layer
from lockstep.image.store import Store
from lockstep.layers.blob import content_of
from lockstep.layers.collision import FOLDER, Written, check_collisions, link_to
from lockstep.layers.grouping import group, merge
from lockstep.layers.large import checked_meanwhile
from lockstep.layers.namespace import LONGEST
from lockstep.layers.package import Python, hash_of
from lockstep.layers.prefix import python_of
from lockstep.layers.workshop import BUFFER, Workshop
from lockstep.lock.locked import LockedPackage
from lockstep.progress import SILENT, Progress

if TYPE_CHECKING:
    from lockstep.lock import Lock


def assembled(lock: Lock, home: Home) -> tuple[Layer, ...] | None:
    """Return the lock's layers if all are in the store: no package is needed then. None if one is missing."""
    return Store(home).layers(_lock_key(lock))


def assembled_so_far(lock: Lock, home: Home) -> tuple[Layer, ...]:
    """Return the lock's layers that are in the store, from the lowest up to the first that isn't."""
    store, python = Store(home), python_of(lock.packages)
    keys = ([_package_key(x, python) for x in members] for members in group(lock.packages))
    found = (store.layer(_group_key(x)) for x in keys)
    return tuple(itertools.takewhile(lambda layer: layer is not None, found))  # type: ignore[arg-type]


def assemble(
    lock: Lock, packages: Mapping[str, Path], home: Home, progress: Progress = SILENT
) -> tuple[Layer, ...]:
    """Return the lock's layers, the first to be unpacked first, making those that the store lacks.

    `packages` says where each package is, by sha256 (what `fetch` returns). Raises PackageError for a
    package that can't go into the image, or two that write one path differently; DiskFullError. Whatever
    happens, the store holds whole layers only. One process at a time makes layers; others wait for it.
    """
    if (layers := assembled(lock, home)) is not None:
        return layers
    with home.exclusive("assemble"):
        if (layers := assembled(lock, home)) is not None:  # the process that was waited for made them
            return layers
        store = Store(home)
        python = python_of(lock.packages)
        keys = {x: _package_key(x, python) for x in lock.packages}
        with home.workspace("layers") as folder:
            in_order = (x for members in group(lock.packages) for x in members)
            missing = {x: keys[x] for x in in_order if store.layer(keys[x]) is None}
            if missing:
                size = sum(x.size for x in missing)
                with (
                    progress.task(f"Making {len(missing)} layers", size) as task,
                    Workshop(store, lock.packages, packages, folder, task.advance) as workshop,
                ):
                    workshop.make(missing)
            _check_collisions(store, keys)
            layers = tuple(
                _layer_of(store, [keys[x] for x in members], folder, set(missing.values()))
                for members in group(lock.packages)
            )
        store.save_layers(_lock_key(lock), layers)
        return layers


def checked(lock: Lock, home: Home) -> contextlib.AbstractContextManager[None]:
    """Hash the large files of the lock's packages while the block runs; raise PackageError for a wrong one.

    Once per package and machine: with nothing to compare it costs nothing.
    """
    python = python_of(lock.packages)
    return checked_meanwhile(Store(home), [_package_key(x, python) for x in lock.packages])


def _check_collisions(store: Store, keys: Mapping[LockedPackage, str]) -> None:
    files = {_named(x): store.files(key) for x, key in keys.items()}
    layers = {_named(x): store.layer(key) for x, key in keys.items()}

    read: set[str] = set()

    def hashed(package: str, path: str) -> str:
        what, begin, end = files[package][path]
        layer = layers[package]
        if end - begin <= LARGE or layer is None or what == FOLDER or what.startswith(link_to("")):
            return what  # hashed while it was written
        read.add(layer.diff_id)
        return hash_of(content_of(store.blob(layer.diff_id), begin, end))

    def start(package: str, path: str) -> bytes | None:
        what, begin, end = files[package].get(path, (FOLDER, 0, 0))
        layer = layers[package]
        if layer is None or what == FOLDER or what.startswith(link_to("")):
            return None
        read.add(layer.diff_id)
        return next(content_of(store.blob(layer.diff_id), begin, end), b"")[: LONGEST + 1]

    contents = {package: {p: what for p, (what, _, _) in x.items()} for package, x in files.items()}
    with store.suspected(read):
        check_collisions(contents, Written(hashed, start))


def _layer_of(store: Store, keys: Sequence[str], folder: Path, made_now: Set[str]) -> Layer:
    """Return the layer of a group: its only package's own, or one merged from those of all.

    What goes into a merge is checked first, but for what this process has just hashed while it wrote it.
    """
    key = _group_key(keys)
    if (layer := store.layer(key)) is not None:
        return layer
    parts = [x for x in map(store.layer, keys) if x is not None]
    for part, each in zip(parts, keys, strict=True):
        if each not in made_now:
            store.check(part.diff_id)
    files = [store.files(x) for x in keys]
    path = folder / key
    with path.open("wb", BUFFER) as file:
        places = [{name: (start, end) for name, (_, start, end) in x.items()} for x in files]
        blobs = [store.blob(x.diff_id) for x in parts]
        diff_id, size, made = merge(list(zip(blobs, places, strict=True)), file)
    layer = Layer(diff_id, size, tuple(name for x in parts for name in x.packages))
    held = {
        name: what for x in reversed(files) for name, (what, _, _) in x.items()
    }  # `merge` takes the first
    store.save_layer(key, layer, path, {name: (held[name], *place) for name, place in made.items()}, keys)
    return layer


def _group_key(keys: Sequence[str]) -> str:
    return keys[0] if len(keys) == 1 else _key("group", *keys)


def _named(package: LockedPackage) -> str:
    return f"{package.name} {package.version} ({package.manager})"


def _package_key(package: LockedPackage, python: Python | None) -> str:
    """Return the store's key of a package: everything that its layer follows from."""
    source = package.url if package.manager == "conda" else package.filename  # conda-meta tells the URL
    compiler = [python.version, python.sha256] if python else []
    return _key("package", package.manager, package.name, package.version, package.sha256, source, compiler)


def _lock_key(lock: Lock) -> str:
    python = python_of(lock.packages)
    return _key("lock", [[_package_key(x, python) for x in members] for members in group(lock.packages)])


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps([FORMAT, *parts]).encode()).hexdigest()
