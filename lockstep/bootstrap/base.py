"""The base image from the Debian archive: mmdebstrap run on exactly the .debs of a record, with no network.

The same record gives the same layer on any machine, any day, for any user. Documentation, manuals and
translations are left out as in Debian's own slim images, and so is whatever a machine leaves behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from lockstep.bootstrap.apt import need
from lockstep.bootstrap.archive import Archive, open_archive
from lockstep.bootstrap.debs import fetch_debs, newest, place, unpackers
from lockstep.bootstrap.rootfs import write_layout
from lockstep.errors import IntegrityError, LockstepError
from lockstep.home import Home
from lockstep.lock.locked import Bootstrap
from lockstep.progress import Progress
from lockstep.seal import check_folder, is_sealed, seal_folder

FORMAT = "1"
"""Changes whenever the same record would give other bytes; it is part of the cache's key."""

WANTED = ("?essential", "apt", "bash", "ca-certificates", "tzdata")
OPTIONAL = ("usr-is-merged",)
"""Where a release has it, it stands in for usrmerge, which would bring all of Perl."""

_SLIM = (
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
)
_HOOKS = Path("/usr/share/mmdebstrap/hooks/merged-usr")
_TOOLS = {"mmdebstrap": "mmdebstrap", "dpkg-deb": "dpkg", "apt-get": "apt"}


@dataclass(frozen=True)
class BootstrapBase:
    """A base image made here: the folder of its OCI layout, its manifest's digest, what it was made from."""

    layout: Path
    digest: str
    record: Bootstrap


def bootstrap_base(
    home: Home,
    progress: Progress,
    *,
    install: bool,
    recorded: Bootstrap | None = None,
    digest: str | None = None,
) -> BootstrapBase:
    """Make the base image, or return the one that is there.

    With `recorded` it is made from exactly those .debs; else the archive is asked what the newest ones are.
    `digest` is what the lock says it is: IntegrityError if it isn't. `install` allows apt to install
    mmdebstrap. Raises LockstepError where this machine can't do it, FetchError if the archive doesn't answer.
    """
    mirrors = None
    if recorded is None or not recorded.base_debs:
        archive = open_archive(home, progress)
        record, mirrors = _ask(archive, home, progress), archive.mirrors
    else:
        record = recorded
    folder = home.bootstrap / f"base-{_key(record)}"
    if is_sealed(folder):
        check_folder(folder)
    else:
        fetch_debs(record.base_debs, record.sources, home, progress, mirrors=mirrors)
        with home.exclusive(folder.name):
            if not is_sealed(folder):
                tools = {**_TOOLS, **unpackers(record.base_debs, home)}
                need(tools, progress, install=install)
                _make(record, folder, home, progress)
    found = json.loads((folder / "index.json").read_bytes())["manifests"][0]["digest"]
    if digest is not None and found != digest:
        raise IntegrityError(
            f"The lock's base image is {digest}, but its Debian packages gave {found} on this machine.",
            "Another version of Lockstep or mmdebstrap may have made the lock: use that one, or run "
            "`./invoke lock --upgrade`.",
        )
    return BootstrapBase(folder, found, record)


def _ask(archive: Archive, home: Home, progress: Progress) -> Bootstrap:
    """Return the record of a base made from the newest packages; its epoch is the newest package's.

    The day of the archive's Release file would do too, but it moves several times a day even if nothing
    in the base does.
    """
    debs = tuple(one.deb for one in archive.resolve(WANTED, OPTIONAL))
    fetch_debs(debs, archive.sources, home, progress, mirrors=archive.mirrors)
    return Bootstrap(archive.sources, newest(debs, home), base_debs=debs)


def _key(record: Bootstrap) -> str:
    facts = [FORMAT, record.sources, record.epoch, [(deb.name, deb.sha256) for deb in record.base_debs]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _make(record: Bootstrap, folder: Path, home: Home, progress: Progress) -> None:
    with home.workspace("base") as work, _scratch(work) as scratch:
        repository = scratch / "archive"
        repository.mkdir()
        place(record.base_debs, home, repository)
        names = sorted(deb.name for deb in record.base_debs)
        command = [
            "mmdebstrap",
            f"--mode={'root' if os.geteuid() == 0 else 'unshare'}",
            "--variant=apt",
            "--format=tar",
            "--verbose",  # dpkg's lines are the progress
            f"--include={','.join(names)}",
            "--skip=output/dev",
            *(f"--dpkgopt={option}" for option in _SLIM),
            *([f"--hook-dir={_HOOKS}"] if "usr-is-merged" in names and _HOOKS.exists() else []),
            "lockstep",  # the suite's name: a flat repository has none
            str(work / "rootfs.tar"),
            f"deb [trusted=yes] copy:{quote(str(repository))} ./",
        ]
        _run(command, record.epoch, scratch, progress, steps=len(names))
        layout = work / "layout"
        with progress.task("Writing the base image"):
            write_layout(work / "rootfs.tar", layout, record)
            seal_folder(layout)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)  # what an older, half-removed cache left
        folder.parent.mkdir(parents=True, exist_ok=True)
        layout.replace(folder)


@contextlib.contextmanager
def _scratch(work: Path) -> Iterator[Path]:
    """Give the folder that mmdebstrap works in.

    Without root it works as other user IDs of this user, who can't look into a private home folder: then it
    is in the machine's temporary folder.
    """
    if os.geteuid() == 0:
        yield work
        return
    with tempfile.TemporaryDirectory(prefix="lockstep-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def _run(command: list[str], epoch: int, scratch: Path, progress: Progress, *, steps: int) -> None:
    """Run mmdebstrap in a mount namespace of its own, so that nothing stays mounted if it is killed."""
    alone = ["unshare", "--mount", "--propagation=private", "--"]
    if os.geteuid() == 0 and subprocess.run([*alone, "true"], capture_output=True).returncode == 0:
        command = [*alone, *command]
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "HOME": "/root" if os.geteuid() == 0 else os.environ.get("HOME", "/"),
        "TMPDIR": str(scratch),
        "SOURCE_DATE_EPOCH": str(epoch),
    }
    last: list[str] = []
    done: set[str] = set()  # mmdebstrap sets some packages up twice
    with (
        progress.task("Making the base image with mmdebstrap", steps, unit="packages") as task,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
            cwd="/",
            umask=0o022,
        ) as process,
    ):
        assert process.stdout
        for line in process.stdout:
            last = [*last[-200:], line.rstrip()]
            if line.startswith("Setting up ") and line.split()[2] not in done:
                done.add(line.split()[2])
                task.advance()
    if process.returncode:
        said = [line for line in last if line.startswith(("E:", "W:", "dpkg: error"))] or last
        raise LockstepError(
            f"mmdebstrap couldn't make the base image: {' '.join(line[:300] for line in said[-4:])}",
            _remedy(said),
        )


def _remedy(said: list[str]) -> str:
    if os.geteuid() != 0 and any(
        "subuid" in line or "newuidmap" in line or "unshare" in line for line in said
    ):
        return (
            "Without root it needs user namespaces: `apt-get install uidmap` as root and a line for you in "
            "/etc/subuid and /etc/subgid; or run the command as root once."
        )
    return "Run the same command again; if it stays so, a container or sandbox may forbid chroot or mounting."
