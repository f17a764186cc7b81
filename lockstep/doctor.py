"""Doctor: what is reachable from here, and what will be used because of it."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lockstep.errors import LockstepError, UnreachableError
from lockstep.terminal import megabytes

if TYPE_CHECKING:
    from lockstep.project import Project
    from lockstep.spec import Spec

_ROOM_NEEDED = 20_000_000_000
"""Bytes that the default image takes: wheels, layers and the engine's copy."""


@dataclass(frozen=True)
class Check:
    """One thing looked at: what was found, and what will be used; `ok` is false where something must be done."""

    name: str
    ok: bool
    found: str


def examine(project: Project) -> tuple[Check, ...]:
    """Look at everything that a build and a run need. Nothing is installed, started or changed."""
    from lockstep.pipeline import spec_of

    checks = [_in_words("engine", _engine), _in_words("disk", lambda: _disk(project.home.path))]
    try:
        spec = spec_of(project)
    except LockstepError as error:
        return (*checks, Check("spec", False, str(error)))
    checks.append(
        Check(
            "spec", True, f"{project.settings.environment}, {len(spec.conda)} conda and {len(spec.pip)} pip"
        )
    )
    checks.append(_in_words("registry", lambda: _registry(project)))
    checks.append(_in_words("channels", lambda: _channels(spec, project)))
    checks.append(_in_words("package index", lambda: _index(spec, project)))
    return tuple(checks)


def _in_words(name: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except LockstepError as error:
        return Check(name, False, str(error).replace("\n", " "))


def _engine() -> Check:
    from lockstep.engine import find_engine

    engine = find_engine()
    if engine is None:
        return Check("engine", False, "none answers; `./invoke engine` installs or starts one where it can")
    with engine:
        info = engine.info()
    gpus = "GPUs" if info.gpus else "no GPU, so training runs on the CPU"
    free = f", {megabytes(info.data_free)} free" if info.data_free is not None else ""
    return Check(
        "engine", True, f"{info.kind} {info.version} at {info.address}, {info.storage_driver}{free}; {gpus}"
    )


def _disk(home: Path) -> Check:
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    return Check(
        "disk", free > _ROOM_NEEDED, f"{megabytes(free)} free for {home}; the default image takes about 15 GB"
    )


def _registry(project: Project) -> Check:
    from lockstep.registry import resolve

    base = project.settings.base
    try:
        return Check("registry", True, f"{base} is {resolve(base, platform=project.settings.platform)[:19]}")
    except UnreachableError as error:
        return _bootstrapped("registry", error.message, "the base image is made from the Debian archive")


def _channels(spec: Spec, project: Project) -> Check:
    from lockstep.servers import read_servers
    from lockstep.solve.channels import channels_of, first_answering, is_public, unreachable

    servers = read_servers(spec, project.settings.channel_mirrors)
    channels = channels_of(spec, servers)
    silent = [channel for channel in channels if first_answering(channel, servers) is None]
    if not silent:
        return Check("channels", True, ", ".join(channel.public for channel in channels))
    if silent != list(channels) or not all(map(is_public, channels)):
        remedy = "correct its name, or set a mirror for it (channel_mirrors in invoke.yaml)"
        return Check("channels", False, f"No server answers for {unreachable(silent)}: {remedy}.")
    return _bootstrapped(
        "channels", f"No server answers for {unreachable(silent)}.", "Python is taken from the Debian archive"
    )


def _bootstrapped(name: str, told: str, instead: str) -> Check:
    from_debian = shutil.which("apt-get") is not None
    remedy = (
        instead
        if from_debian
        else f"{platform.system()} has no apt, so nothing can stand in; see docs/decisions/11-base-image.md"
    )
    return Check(name, from_debian, f"{told} {remedy[0].upper()}{remedy[1:]}.")


def _index(spec: Spec, project: Project) -> Check:
    from lockstep.servers import hide, read_servers
    from lockstep.solve.pypi import index_trouble

    servers = read_servers(spec, project.settings.channel_mirrors)
    trouble = index_trouble(servers, project.home)
    found = hide(servers.pip.index_url or "the public index")
    return Check("package index", trouble is None, trouble or f"{found} answers")
