"""The Debian tools that the bootstrap runs: found, or installed with apt where that is allowed."""

from __future__ import annotations

import os
import shutil
import subprocess

from lockstep.errors import LockstepError
from lockstep.progress import Progress
from lockstep.servers import read_servers


def need(packages: dict[str, str], progress: Progress, *, install: bool) -> None:
    """See to it that programs are there; `packages` maps each program to the Debian package that has it.

    Installs what is missing if `install` and the user is root. Raises LockstepError naming the command.
    """
    missing = sorted({package for program, package in packages.items() if not shutil.which(program)})
    if not missing:
        return
    command = f"apt-get install --no-install-recommends {' '.join(missing)}"
    if not install or os.geteuid() != 0 or not shutil.which("apt-get"):
        raise LockstepError(
            f"Working with Debian's packages needs {' and '.join(missing)}, and it isn't installed.",
            f"Run `{command}` as root, then the same command again.",
        )
    progress.say(f"Installing {' and '.join(missing)} with apt, to work with Debian's packages.")
    with progress.task(f"Installing {' and '.join(missing)}"):
        done = _install(missing)
        if done.returncode:  # the machine's package lists may be old or missing
            subprocess.run(
                ["apt-get", "update"], capture_output=True, stdin=subprocess.DEVNULL, env=apt_environment()
            )
            done = _install(missing)
    if done.returncode:
        raise LockstepError(
            f"apt couldn't install {' and '.join(missing)}: {done.stderr.strip()[-300:]}",
            f"Run `apt-get update && {command}` to see why, then the same command again.",
        )


def _install(packages: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["apt-get", "install", "--yes", "--no-install-recommends", "-oDPkg::Lock::Timeout=300", *packages],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=apt_environment(),
    )


def apt_environment() -> dict[str, str]:
    """Return apt's environment: no questions, English, and this machine's proxies, of which it reads few spellings.

    A proxy that apt's own configuration names wins in apt.
    """
    return {**read_servers().proxies.environment(), "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
