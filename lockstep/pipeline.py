"""Pipeline: the story, stage by stage. Spec -> Lock -> packages -> Layers -> Image -> engine.

Each stage is a function from values to values; this module only says in which order.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lockstep.builds import remember
from lockstep.errors import LockError, RegistryUnreachableError
from lockstep.image import Image, compose
from lockstep.lock import Change, Lock, LockedBase, compare_locks, read_lock, write_lock
from lockstep.locked import Bootstrap
from lockstep.project import Project
from lockstep.spec import Spec, read_spec
from lockstep.store import Store

if TYPE_CHECKING:
    from lockstep.engine import Engine


@dataclass(frozen=True)
class Locked:
    """A lock that fits its spec, and what making it changed (nothing if it was fresh)."""

    lock: Lock
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Built:
    """What a build gave: the image, its lock, and where the time went (stage, seconds)."""

    image: Image
    lock: Lock
    changes: tuple[Change, ...]
    layers_reused: int
    depends_on_day: bool
    engine_id: str
    road: str
    stages: tuple[tuple[str, float], ...]


@dataclass
class _Clock:
    stages: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.stages.append((name, time.monotonic() - began))


def spec_of(project: Project) -> Spec:
    """Read the spec that the project's settings name."""
    settings = project.settings
    return read_spec(
        settings.environment_path,
        dockerfile=settings.root / settings.dockerfile,
        base=settings.base,
        platform=settings.platform,
        virtual_packages=settings.virtual_packages,
        exclude_newer=settings.exclude_newer or None,
    )



def lock(
    project: Project, *, locked: bool = False, upgrade: frozenset[str] | None = None, spec: Spec | None = None
) -> Locked:
    """Return a lock that fits the spec, making it anew if it is stale or missing.

    `upgrade` moves packages on purpose: their names, or the empty set for all. `locked` refuses a stale
    lock with LockError instead. Raises what reading, solving and fetching raise.
    """
    spec = spec or spec_of(project)
    path = project.settings.lock_path
    old = read_lock(path) if path.exists() or locked else None
    if old and old.spec_hash == spec.hash and upgrade is None:
        return Locked(old)
    if locked:
        raise LockError(
            f"The lock {path} is stale: the spec or the settings changed since it was made.",
            "Run `./invoke lock` and commit the file.",
        )
    new = _solve(project, spec, old, upgrade)
    write_lock(new, path)
    return Locked(new, compare_locks(old, new))


def _solve(project: Project, spec: Spec, old: Lock | None, upgrade: frozenset[str] | None) -> Lock:
    from lockstep.base import choose_base
    from lockstep.revision import revision_of
    from lockstep.solve import solve

    everything = upgrade is not None and not upgrade
    base = choose_base(spec.base, project, None if everything else old)
    return solve(
        spec,
        home=project.home,
        base=base.locked,
        progress=project.progress,
        previous=old,
        upgrade="all" if everything else upgrade,
        bootstrap=base.record,
        install=project.install,
        mirrors=project.settings.channel_mirrors,
        source_revision=revision_of(project.settings.inputs),
    )


def build(project: Project, *, locked: bool = False) -> Built:
    """Make the image and put it into the engine; what is there already isn't made again."""
    from lockstep.assemble import assemble, needed
    from lockstep.base import base_image
    from lockstep.engine import connect
    from lockstep.fetch import fetch

    clock, store = _Clock(), Store(project.home)
    home, progress, install = project.home, project.progress, project.install
    with clock.stage("lock"):
        spec = spec_of(project)
        made = lock(project, locked=locked, spec=spec)
    with clock.stage("fetch"):
        wanted = needed(made.lock, store)
        packages = fetch(wanted, home, progress, bootstrap=made.lock.bootstrap, install=install)
    with clock.stage("base"):
        base = base_image(made.lock, project, store)
    with clock.stage("assemble"):
        layers = assemble(made.lock, packages, home, progress)
    with clock.stage("engine"), connect(install=install, progress=progress, home=home) as engine:
        system = engine.build_system(base, store, project.settings.dockerfile_path, progress)
        image = compose(system.image, layers, made.lock)
        store.save_image(image)
        delivery = engine.deliver(image, store, project.settings.reference, progress)
    remember(project.state, Build(image.id, project.settings.reference, made.lock.hash))
    return Built(image, made.lock, made.changes, delivery, system.depends_on_day, tuple(clock.stages))
