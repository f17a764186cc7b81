"""Fetch: every package of a lock into the machine's store, verified by its sha256.

Four at a time; what is there already isn't touched; what a killed run left continues where it stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from lockstep.damage import is_there, is_whole, repaired
from lockstep.errors import DiskFullError
from lockstep.home import Home
from lockstep.lock.locked import BOOTSTRAP_SCHEME, Bootstrap, LockedPackage
from lockstep.progress import SILENT, Progress
from lockstep.servers import Servers, read_servers
from lockstep.servers.download import Download
from lockstep.servers.transfers import transfer


def fetch(
    packages: Iterable[LockedPackage],
    home: Home,
    progress: Progress = SILENT,
    *,
    servers: Servers | None = None,
    bootstrap: Bootstrap | None = None,
    install: bool = False,
) -> dict[str, Path]:
    """Bring every package into `home.package(sha256)` and return those paths by sha256.

    `bootstrap` is the lock's, for packages that Lockstep makes itself; `install` says whether making
    them may install tools. What is there isn't read: who makes a layer of it checks it. Raises FetchError,
    IntegrityError, DamagedError or DiskFullError; the next call continues.
    """
    packages = list(packages)
    missing = repaired(
        lambda: {x.sha256: x for x in packages if not is_there(home.package(x.sha256), x.size)}, progress
    )
    if missing:
        servers = servers or read_servers()
        own = [package for package in missing.values() if _is_own(package)]
        channel = _bootstrap_channel(home, progress, bootstrap, install) if own else None
        downloads = [
            Download(
                name=package.filename,
                addresses=_own_addresses(package, channel)
                if channel and _is_own(package)
                else servers.addresses(package.url),
                sha256=package.sha256,
                size=package.size,
                target=home.package(package.sha256),
            )
            for package in sorted(missing.values(), key=lambda package: (-package.size, package.sha256))
        ]
        _run(downloads, home, progress, servers)
    return {package.sha256: home.package(package.sha256) for package in packages}


def fetch_url(
    url: str,
    sha256: str,
    size: int | None,
    home: Home,
    progress: Progress = SILENT,
    *,
    mirrors: Sequence[str] = (),
    servers: Servers | None = None,
) -> Path:
    """Bring one file into `home.package(sha256)` and return that path; `mirrors` are tried before `url`.

    `size` is in bytes, None if it isn't known. What is there is read and checked. Raises what `fetch` raises.
    """
    target = home.package(sha256)
    if not repaired(lambda: is_there(target, size) and is_whole(target, sha256), progress):
        servers = servers or read_servers()
        addresses = (*mirrors, *servers.addresses(url))
        name = urlsplit(url).path.rsplit("/", 1)[-1]
        _run([Download(name, addresses, sha256, size, target)], home, progress, servers)
    return target


def _is_own(package: LockedPackage) -> bool:
    return package.url.startswith(f"{BOOTSTRAP_SCHEME}:")


def _bootstrap_channel(home: Home, progress: Progress, recorded: Bootstrap | None, install: bool) -> Path:
    from lockstep.bootstrap import bootstrap_channel

    path: Path = bootstrap_channel(home, progress, install=install, recorded=recorded).path
    return path


def _own_addresses(package: LockedPackage, channel: Path) -> tuple[str, ...]:
    parts = urlsplit(package.url)
    return ((channel.absolute() / parts.netloc / package.filename).as_uri(),)


def _run(downloads: Sequence[Download], home: Home, progress: Progress, servers: Servers) -> None:
    """Run the downloads, if the disk has room for them."""
    folder = home.packages
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(download.size or 0 for download in downloads)
    if total > (free := shutil.disk_usage(folder).free):
        raise DiskFullError(
            f"{total / 1e6:,.0f} MB are to be fetched; the disk of {folder} has {free / 1e6:,.0f} MB free.",
            "Free some space (`./invoke clean` removes what Lockstep can make again), or set LOCKSTEP_HOME.",
        )
    what = downloads[0].name if len(downloads) == 1 else f"{len(downloads)} packages"
    transfer(downloads, servers, progress, what)
