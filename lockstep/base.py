"""Base: the operating system under the environment: from a registry, else made from the Debian archive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lockstep.errors import UnreachableError
from lockstep.lock import Lock
from lockstep.lock.locked import Bootstrap, LockedBase

if TYPE_CHECKING:
    from lockstep.image import Image
    from lockstep.image.store import Store
    from lockstep.project import Project


@dataclass(frozen=True)
class ChosenBase:
    """What goes into the lock: the base's digest and, where it was made here, what it was made from."""

    locked: LockedBase
    record: Bootstrap | None = None


def choose_base(project: Project, reference: str, previous: Lock | None) -> ChosenBase:
    """Return the base that a reference means today; that of `previous` if it means the same reference.

    Where the registry can't be reached, the base is made from the Debian archive, and a line says so.
    """
    from lockstep.bootstrap import bootstrap_base
    from lockstep.registry import resolve

    if previous and previous.base.reference == reference:
        return ChosenBase(previous.base, previous.bootstrap)
    try:
        digest = resolve(reference, platform=project.settings.platform)
        return ChosenBase(LockedBase(reference, digest))
    except UnreachableError as error:
        project.progress.say(f"{error.message} Making the base image from the Debian archive.")
    made = bootstrap_base(project.home, project.progress, install=project.install)
    return ChosenBase(LockedBase(reference, made.digest, "bootstrap"), made.record)


def base_image(project: Project, lock: Lock, store: Store) -> Image:
    """Return the lock's base with its blobs in the store, fetched or made again if they aren't there."""
    known = store.read_json("bases", lock.base.digest)
    image = store.image(known["image"]) if known else None
    if image is None or not all(store.has(layer.digest, layer.size) for layer in image.layers):
        image = _get(project, lock, store)
        store.save_image(image)
        store.write_json("bases", lock.base.digest, {"image": image.id})
    return image


def _get(project: Project, lock: Lock, store: Store) -> Image:
    from lockstep.bootstrap import bootstrap_base
    from lockstep.image.layout import read_layout
    from lockstep.registry import pull_base

    home, progress = project.home, project.progress
    if lock.base.origin == "registry":
        return pull_base(lock.base.reference, lock.base.digest, store, progress)
    digest, record = lock.base.digest, lock.bootstrap
    made = bootstrap_base(home, progress, install=project.install, recorded=record, digest=digest)
    return read_layout(made.layout, store)
