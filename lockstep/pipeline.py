"""Pipeline: the story, stage by stage. Spec -> Lock -> packages -> Layers -> Image -> engine.

Each stage is a function from values to values; this module only says in which order.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lockstep.builds import Build, builds, remember
from lockstep.damage import repaired
from lockstep.errors import JobError, LockError
from lockstep.image import Image, ImageLayer, as_image_layer, compose
from lockstep.image.store import Store
from lockstep.lock import Change, Lock, compare_locks, read_lock, write_lock
from lockstep.lock.locked import LockedPackage
from lockstep.project import Project
from lockstep.spec import Spec, read_spec

if TYPE_CHECKING:
    from lockstep.datasets import Dataset
    from lockstep.engine import Delivery, EngineInfo
    from lockstep.runs.job import Job
    from lockstep.runs.run import RunRecord


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
    delivery: Delivery
    depends_on_day: bool
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
    spec = read_spec(
        settings.environment_path,
        dockerfile=settings.root / settings.dockerfile,
        base=settings.base,
        platform=settings.platform,
        virtual_packages=settings.virtual_packages,
        exclude_newer=settings.exclude_newer or None,
    )
    return replace(spec, index_strategy=settings.index_strategy)


def lock(
    project: Project, *, locked: bool = False, upgrade: frozenset[str] | None = None, spec: Spec | None = None
) -> Locked:
    """Return a lock that fits the spec, making it anew if it is stale or missing.

    `upgrade` moves packages on purpose: their names, or the empty set for all. `locked` refuses a stale
    lock with LockError instead. Raises what reading, solving and fetching raise.
    """
    return repaired(
        lambda: _lock(project, locked=locked, upgrade=upgrade, spec=spec or spec_of(project)),
        project.progress,
    )


def _lock(project: Project, *, locked: bool, upgrade: frozenset[str] | None, spec: Spec) -> Locked:
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
    base = choose_base(project, spec.base, None if everything else old)
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
    """Make the image and put it into the engine; what is there already isn't made again.

    What is damaged in the store is found when it is read, and made or fetched again.
    """
    return repaired(lambda: _build(project, locked=locked), project.progress)


def _build(project: Project, *, locked: bool) -> Built:
    from lockstep.base import base_image
    from lockstep.engine import connect
    from lockstep.layers.assemble import assemble, assembled, assembled_so_far, checked

    clock, store = _Clock(), Store(project.home)
    home, progress, install = project.home, project.progress, project.install
    with clock.stage("lock"):
        spec = spec_of(project)
        made = lock(project, locked=locked, spec=spec)
    with clock.stage("fetch"):
        wanted = () if assembled(made.lock, home) else made.lock.packages
        packages = _fetch(project, spec, made.lock, wanted)
    with clock.stage("base"):
        base = base_image(project, made.lock, store)
    with clock.stage("engine"):
        engine = connect(install=install, progress=progress, home=home)
    with engine:
        with clock.stage("system"):
            system = engine.build_system(base, store, project.settings.dockerfile_path, progress)

        def so_far() -> tuple[ImageLayer, ...]:
            return (*system.image.layers, *map(as_image_layer, assembled_so_far(made.lock, home)))

        with engine.head_start(store, so_far) as begun:
            with clock.stage("assemble"):
                layers = assemble(made.lock, packages, home, progress)
            with clock.stage("deliver"), checked(made.lock, home):
                image = compose(system.image, layers, made.lock)
                store.save_image(image)
                delivery = engine.deliver(image, store, project.settings.reference, progress, begun)
    remember(project.state, Build(image.id, project.settings.reference, made.lock.hash))
    return Built(image, made.lock, made.changes, delivery, system.depends_on_day, tuple(clock.stages))


def _fetch(project: Project, spec: Spec, made: Lock, wanted: Sequence[LockedPackage]) -> dict[str, Path]:
    from lockstep.fetch import fetch
    from lockstep.servers import read_servers

    return fetch(
        wanted,
        project.home,
        project.progress,
        servers=read_servers(spec, project.settings.channel_mirrors),
        bootstrap=made.bootstrap,
        install=project.install,
    )


def job_of(project: Project, arguments: tuple[str, ...], processes: int | None = None) -> Job:
    """Return the Job that the settings describe, with the data that is there or can be had."""
    from lockstep.datasets import choose_dataset
    from lockstep.runs.job import make_job

    settings = project.settings
    folder = choose_dataset(settings.data, settings.job.data, project.home, project.progress)
    data = folder.relative_to(settings.root) if folder.is_relative_to(settings.root) else folder
    return make_job(settings.job, str(data), extra=arguments, processes=processes)


def train_local(
    project: Project, arguments: tuple[str, ...], *, processes: int | None = None, locked: bool = False
) -> RunRecord:
    """Build the image if need be and run the Job in it, here; the script's output goes to stdout."""
    from lockstep.engine import connect
    from lockstep.training import train_local as train

    built = build(project, locked=locked)
    job = job_of(project, arguments, processes)
    with connect(install=project.install, progress=project.progress, home=project.home) as engine:
        return train(
            job,
            image_id=built.image.id,
            engine_image=built.delivery.image_id,
            lock_hash=built.lock.hash,
            engine=engine,
            root=project.settings.root,
            runs=project.settings.runs,
            home=project.home,
            on_line=_print_line,
        )


def _print_line(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.flush()


def get_data(project: Project, *, source: str, name: str, digits: bool) -> Dataset:
    """Make a dataset under data/: from a folder or archive of the user's, the digits, or CIFAR-10."""
    from lockstep.datasets import import_images, make_cifar10, make_digits

    folder, home, progress = project.settings.data, project.home, project.progress
    if source:
        return import_images(Path(source), folder, home, progress, name=name or None)
    if digits:
        return make_digits(folder, home, progress)
    return make_cifar10(folder, home, progress)


def last_images(project: Project) -> tuple[Image, Image | None]:
    """Return the image of this checkout's last build, and that of the build before, if it is still known."""
    store = Store(project.home)

    def saved() -> list[Image]:
        return [image for build in builds(project.state) if (image := store.image(build.image_id))]

    known = repaired(saved, project.progress)
    if not known:
        raise JobError("This checkout has built no image yet.", "Run `./invoke build`.")
    return known[-1], known[-2] if len(known) > 1 else None


def shell(project: Project, command: tuple[str, ...]) -> int:
    """Give a prompt in the image, or run one command in it; return the exit code.

    The source and the Job's data are where a run has them; the source is writable. Data that would have to
    be made or fetched first is left out, with a line.
    """
    from lockstep.datasets import find_dataset
    from lockstep.engine import connect
    from lockstep.runs.job import make_job
    from lockstep.training import shell_container

    settings = project.settings
    data = find_dataset(settings.data, settings.job.data)
    if data is None:
        project.progress.say("The job's data isn't here yet: `./invoke data` gets it.")
    job = make_job(settings.job, str(data) if data else None)
    built = build(project)
    with connect(install=project.install, progress=project.progress, home=project.home) as engine:
        image = built.delivery.image_id
        return engine.shell(shell_container(job, image, engine, settings.root, command or ("bash",)))


def engine_info(project: Project) -> EngineInfo:
    """Return what the engine says of itself; one is installed and started where that is possible."""
    from lockstep.engine import connect

    with connect(install=project.install, progress=project.progress, home=project.home) as engine:
        return engine.info()
