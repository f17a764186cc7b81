"""Virtual environments from a hash-pinned lock: made by uv, made again when the lock changes."""

from __future__ import annotations

import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lockstep.errors import FetchError
from lockstep.progress import Progress
from lockstep.servers import read_servers
from lockstep.servers.certificates import CERTIFICATE_REMEDY


def provide(folder: Path, lock: Path, progress: Progress, *, exactly: bool = True) -> Path:
    """Return the Python of the virtual environment `folder`, in which everything of `lock` is installed.

    `exactly` also removes what the lock doesn't name. Nothing happens if it was made from this lock.
    Raises FetchError with uv's words.
    """
    python, made_from = folder / "bin" / "python", folder / lock.name
    if made_from.exists() and filecmp.cmp(lock, made_from, shallow=False):
        return python
    progress.say(f"Installing {lock.name.removesuffix('.lock')} tools into {folder.name}.")
    if not python.exists():
        _uv("venv", "--quiet", "--python", sys.executable, str(folder))
    how = ("sync",) if exactly else ("install", "-r")
    options = ("--quiet", "--compile-bytecode", "--system-certs", "--require-hashes", "--python", str(python))
    _uv("pip", how[0], *options, *how[1:], str(lock))
    shutil.copyfile(lock, made_from)  # last: what was killed before is made again
    return python


def _uv(*arguments: str) -> None:
    import uv

    with tempfile.TemporaryDirectory(prefix="lockstep-") as folder:
        environment = read_servers().environment(Path(folder))  # pip's settings, which uv doesn't read
        done = subprocess.run(
            [uv.find_uv_bin(), *arguments],
            cwd="/",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise FetchError(
            f"uv couldn't make a virtual environment:\n{done.stderr.strip()}",
            f"{CERTIFICATE_REMEDY} Then run the same command again."
            if "certificate" in done.stderr.lower()
            else "Run the same command again when that is settled; `./invoke doctor` shows what is reachable.",
        )
