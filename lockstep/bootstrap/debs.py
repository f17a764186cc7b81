"""Debian packages as files: fetching them by sha256, and reading what is in them."""

from __future__ import annotations

import contextlib
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from lockstep.bootstrap.apt_proxy import proxies_of_apt
from lockstep.bootstrap.archive import host_mirrors
from lockstep.damage import is_whole
from lockstep.errors import FetchError, PackageError
from lockstep.home import Home
from lockstep.image.layer import check_no_whiteout
from lockstep.lock.locked import LockedDeb
from lockstep.progress import Progress
from lockstep.servers import hide, read_servers
from lockstep.servers.download import Download
from lockstep.servers.transfers import transfer

_LATER = (
    "Debian's mirrors keep only the newest version of a package. Run `./invoke lock --upgrade` to take "
    "today's, or add a snapshot archive of the lock's day to this machine's apt sources and run the same "
    "command again."
)


def fetch_debs(
    debs: Sequence[LockedDeb],
    sources: Sequence[str],
    home: Home,
    progress: Progress,
    *,
    mirrors: Sequence[str] | None = None,
) -> None:
    """Bring every .deb into home.packages, verified; what is there already is read and checked.

    `sources` are the lock's apt sources, `mirrors` the archive's roots as this machine reaches them (its
    apt is asked if not given). Raises FetchError if no mirror has a .deb any more or none can be reached.
    """
    missing = [deb for deb in debs if not is_whole(home.package(deb.sha256), deb.sha256)]
    if not missing:
        return
    roots = in_turn(sources, host_mirrors(home) if mirrors is None else mirrors)
    servers = read_servers()
    servers = replace(servers, proxies=proxies_of_apt(servers.proxies, roots))
    home.package("any").parent.mkdir(parents=True, exist_ok=True)
    downloads = [_download(deb, roots, home) for deb in missing]
    try:
        transfer(downloads, servers, progress, f"{len(missing)} Debian packages")
    except FetchError as error:
        raise FetchError(error.message, _LATER) from error


def in_turn(sources: Sequence[str], mirrors: Sequence[str]) -> tuple[str, ...]:
    """Return the archive's roots to try: those of the lock with this machine's passwords, then its others."""
    private = {hide(uri): uri for uri in mirrors}
    recorded = [line.split("] ", 1)[-1].removeprefix("deb ").split()[0] for line in sources]
    return tuple(dict.fromkeys([*(private.get(uri, uri) for uri in recorded), *mirrors]))


def _download(deb: LockedDeb, roots: Sequence[str], home: Home) -> Download:
    addresses = [f"{root}/{quote(deb.path)}".replace("copy:", "file:", 1) for root in roots]
    return Download(f"{deb.name} {deb.version}", addresses, deb.sha256, deb.size, home.package(deb.sha256))


class Deb:
    """One .deb on disk, read with python-debian. Raises PackageError if it isn't one."""

    def __init__(self, path: Path) -> None:
        from debian.arfile import ArError
        from debian.debfile import DebError, DebFile

        self._path = path
        try:
            self._file = DebFile(str(path))
        except (ArError, DebError) as error:
            raise PackageError(
                f"{path} isn't a Debian package: {error}.",
                "Don't use it: the archive or the lock isn't trustworthy.",
            ) from error

    def __enter__(self) -> Deb:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def control(self) -> dict[str, str]:
        """The fields of its control file."""
        return dict(self._file.debcontrol())

    @property
    def epoch(self) -> int:
        """When its source was changed last, in seconds: Debian builds with that as SOURCE_DATE_EPOCH."""
        return int(self._file.getmember("debian-binary").mtime)

    @property
    def is_zstd(self) -> bool:
        """Whether it is compressed with zstd, which Python reads only with the program unzstd."""
        return any(name.endswith(".zst") for name in self._file.getnames())

    def members(self) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
        """Yield its files and symbolic links, named from the root (`usr/bin/python3.11`), and the bytes."""
        with contextlib.closing(self._file.data.tgz()) as tree:
            for member in tree:
                member.name = member.name.removeprefix("./")
                if member.name.startswith("/") or ".." in member.name.split("/"):
                    raise PackageError(
                        f"The Debian package {self._path.name} would write to {member.name}.",
                        "Don't use it: the archive or the lock isn't trustworthy.",
                    )
                check_no_whiteout(f"The Debian package {self._path.name}", member.name)
                if member.isreg():
                    file = tree.extractfile(member)
                    assert file
                    yield member, file.read()
                elif member.islnk():
                    source = tree.extractfile(member)
                    assert source
                    yield member, source.read()
                elif member.issym():
                    yield member, b""


def newest(debs: Sequence[LockedDeb], home: Home) -> int:
    """Return when the newest of fetched .debs was made, in seconds."""
    found = 0
    for deb in debs:
        with Deb(home.package(deb.sha256)) as opened:
            found = max(found, opened.epoch)
    return found


def unpackers(debs: Sequence[LockedDeb], home: Home) -> dict[str, str]:
    """Return the programs, by Debian package, that reading fetched .debs takes: Ubuntu's are of zstd."""
    for deb in debs:
        with Deb(home.package(deb.sha256)) as opened:
            if opened.is_zstd:
                return {"unzstd": "zstd"}
    return {}


def place(debs: Sequence[LockedDeb], home: Home, folder: Path) -> None:
    """Lay the .debs and an index of them into a folder: a flat apt repository of exactly these.

    Raises PackageError if one isn't what its record says.
    """
    index = []
    for deb in debs:
        name = f"{deb.name}_{deb.sha256[:16]}.deb"
        shutil.copyfile(home.package(deb.sha256), folder / name)
        with Deb(folder / name) as opened:
            control = opened.control
        if (control["Package"], control["Version"]) != (deb.name, deb.version):
            raise PackageError(
                f"Expected {deb.name} {deb.version}, found {control['Package']} {control['Version']}.",
                "Take the committed lock back with git, or run `./invoke lock`.",
            )
        control |= {"Filename": f"./{name}", "Size": str(deb.size), "SHA256": deb.sha256}
        index.append("".join(f"{key}: {value}\n" for key, value in control.items()))
    (folder / "Packages").write_text("\n".join(index))
    folder.chmod(0o755)  # whatever the umask: mmdebstrap may read it as another user
    for path in folder.iterdir():
        path.chmod(0o644)
