"""Repodata: rattler's cache of what channels have, which it doesn't check itself when it reads it again."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from lockstep.home import Home
from lockstep.seal import check_folder, is_sealed, seal_folder, unseal_folder


@contextlib.contextmanager
def repodata_cache(home: Home) -> Iterator[Path]:
    """Give the cache's folder, as it was left, to one process at a time; only this user may look into it.

    One that a killed process left, or that rattler couldn't read, begins anew. Raises DamagedError.
    """
    from rattler.exceptions import GatewayError

    folder = home.path / "repodata"
    with home.exclusive("repodata"):
        if is_sealed(folder) and not folder.stat().st_mode & 0o077:
            check_folder(folder)
            unseal_folder(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            yield folder
        except GatewayError:
            raise
        except BaseException:
            seal_folder(folder)
            raise
        seal_folder(folder)
