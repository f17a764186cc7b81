"""Cleaning: give disk space back. Only what Lockstep can make again goes; runs, data and locks stay."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lockstep.builds import builds
from lockstep.damage import repaired
from lockstep.errors import LockstepError
from lockstep.image.store import Store
from lockstep.project import Project


@dataclass(frozen=True)
class Cleaned:
    """What went, or would go: pairs of what it was and its size in bytes."""

    parts: tuple[tuple[str, int], ...]


def clean(project: Project, *, everything: bool, dry_run: bool) -> Cleaned:
    """Remove the layers that neither this checkout's last build nor a named image in the engine needs.

    `everything` removes the whole store (downloads, layers, the base and the channel made here, caches), for
    every checkout of this machine, and this project's image in the engine. Both wait for a process that is
    just making layers.
    """
    return repaired(lambda: _clean(project, everything=everything, dry_run=dry_run), project.progress)


def _clean(project: Project, *, everything: bool, dry_run: bool) -> Cleaned:
    if everything:
        return Cleaned(tuple(_everything(project, dry_run=dry_run)))
    store = Store(project.home)
    kept = [image for each in (*_in_engine(store), _last(project)) if each and (image := store.image(each))]
    return Cleaned((("layers and images that no build uses", store.collect(kept, dry_run=dry_run)),))


def _last(project: Project) -> str | None:
    known = builds(project.state)
    return known[-1].image_id if known else None


def _in_engine(store: Store) -> Iterator[str]:
    """Yield the IDs of the store's images that the engine has; other checkouts still use those."""
    from lockstep.engine import find_engine

    with contextlib.suppress(LockstepError):
        engine = find_engine()
        if engine is not None:
            with engine:
                yield from (each for each in store.image_ids() if engine.image_id(each))


def _everything(project: Project, *, dry_run: bool) -> Iterator[tuple[str, int]]:
    from lockstep.engine import find_engine

    home = project.home
    with home.exclusive("assemble"):
        for folder in home.made_again:
            size = _size(folder)
            if not dry_run:
                shutil.rmtree(folder, ignore_errors=True)
            yield str(folder), size
    with contextlib.suppress(LockstepError):
        engine = find_engine()
        if engine is not None:
            with engine:
                name = project.settings.reference
                there = engine.image_id(name) is not None
                if there and not dry_run:
                    engine.remove_image(name)
                if there:
                    yield f"the engine's image {name}", 0


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
