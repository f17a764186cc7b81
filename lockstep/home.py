"""Home: the folder of everything that Lockstep keeps on this machine and can make again.

    packages/<sha256>           downloads as they came, by the hash that the lock holds
    layers/                     the layer store (see store.py)
    interpreters/<key>/         Pythons of images, unpacked to compile with (see prefix.py)
    bootstrap/                  base image and channel made from the Debian archive
    repodata/                   what channels have, as rattler caches it
    fingerprints/               which bytes a dataset's folder holds (see datasets/fingerprint.py)
    locks/                      held while one process does what only one may
    logs/                       of an engine that was started here
    tmp/<pid>-…                 work in progress; what a killed process left is swept at the next start

Everything appears by rename from tmp/, on one file system, so a killed process leaves a thing whole
or absent.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from lockstep.errors import DiskFullError

MADE_AGAIN = ("packages", "layers", "interpreters", "bootstrap", "repodata", "fingerprints")
"""The folders that `clean --everything` removes."""

IN_USE = ("locks", "logs", "tmp")
"""The folders of processes that may be running. There are no others: tests/test_cleaning.py sees to it."""


@dataclass(frozen=True)
class Home:
    """The machine's store; `Home.default()` is `$LOCKSTEP_HOME` or the user's cache folder."""

    path: Path

    @classmethod
    def default(cls) -> Home:
        """Return the Home that `LOCKSTEP_HOME` names, else `<user cache>/lockstep`."""
        return cls(Path(os.environ.get("LOCKSTEP_HOME") or platformdirs.user_cache_path("lockstep")))

    def package(self, sha256: str) -> Path:
        """Return where the package of this hash (hex) is kept, whether or not it is there."""
        return self.packages / sha256

    @property
    def packages(self) -> Path:
        return self.path / "packages"

    @property
    def layers(self) -> Path:
        return self.path / "layers"

    @property
    def interpreters(self) -> Path:
        return self.path / "interpreters"

    @property
    def bootstrap(self) -> Path:
        return self.path / "bootstrap"

    @property
    def fingerprints(self) -> Path:
        return self.path / "fingerprints"

    @property
    def made_again(self) -> tuple[Path, ...]:
        """Every folder whose content can be made or fetched again."""
        return tuple(self.path / name for name in MADE_AGAIN)

    @contextlib.contextmanager
    def workspace(self, purpose: str) -> Iterator[Path]:
        """Give a fresh folder under tmp/ and remove it at the end, also after an error.

        A lock is held on it for as long as this process lives, so `sweep` can tell what a killed
        process left behind.
        """
        root = self.path / "tmp"
        root.mkdir(parents=True, exist_ok=True)
        folder = root / f"{os.getpid()}-{purpose}-{uuid.uuid4().hex[:8]}"
        with (root / f"{folder.name}.lock").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)  # before the folder exists, so that no sweep can take it
            folder.mkdir()
            folder.chmod(0o755)  # containers and other users look in, whatever the umask
            try:
                with disk_full_in_words(root):
                    yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                Path(held.name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove the work of processes that died; the work of living ones is locked and stays."""
        for lock in (self.path / "tmp").glob("*.lock"):
            with contextlib.suppress(OSError), lock.open("w") as held:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink(missing_ok=True)

    @contextlib.contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Let one process at a time do the thing called `name`; the others wait their turn."""
        folder = self.path / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield


@contextlib.contextmanager
def disk_full_in_words(where: Path) -> Iterator[None]:
    """Turn ENOSPC and EDQUOT into a DiskFullError that names the disk and how much is left."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(where).free
        raise DiskFullError(
            f"The disk that holds {where} is full ({free / 1e6:,.0f} MB free).",
            "Free some space (`./invoke clean` removes what Lockstep can make again) and run the command again.",
        ) from error
