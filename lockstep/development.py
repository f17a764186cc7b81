"""Development: what `test` and `check` set up and run. CI runs the same tasks as people do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lockstep.progress import Progress
from lockstep.variables import is_on
from lockstep.virtualenv import provide

_JUDGES = {"skopeo": "skopeo", "umoci": "umoci", "docker-registry": "docker-registry"}
"""Programs that judge our images in the tests, and Debian's packages that have them."""

_TOOLS = "requirements/test.lock"
LINTERS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("lint-imports", "--no-logo"),
)
"""Programs of the virtual environment, the quick ones first; each exits with 0 where all is well."""


def test(root: Path, *, quick: bool, arguments: Sequence[str]) -> int:
    """Install what the tests need into .venv, bring up an engine, run pytest; return its exit code."""
    from lockstep import terminal
    from lockstep.engine import connect
    from lockstep.home import Home

    progress = terminal.progress()
    install = not is_on("LOCKSTEP_NO_INSTALL", os.environ)
    provide(Path(sys.prefix), root / _TOOLS, progress, exactly=False)
    provide(root / ".venv-workspace", root / "requirements" / "workspace.lock", progress)
    _install_judges(progress, install=install)
    connect(install=install, progress=progress, home=Home.default()).close()
    chosen = ["-m", "not slow"] if quick else []
    return _run(root, sys.executable, "-m", "pytest", *chosen, *arguments)


def check(root: Path) -> int:
    """Run linters, types, import contracts and tests, the quick ones first; stop at the first that fails."""
    from lockstep import terminal

    provide(Path(sys.prefix), root / _TOOLS, terminal.progress(), exactly=False)
    for program, *words in LINTERS:
        print(f"$ {' '.join((program, *words))}", flush=True)
        if code := _run(root, str(Path(sys.prefix, "bin", program)), *words):
            return code
    return test(root, quick=False, arguments=())


def _run(root: Path, *command: str) -> int:
    return subprocess.run(command, cwd=root, check=False).returncode


def _install_judges(progress: Progress, *, install: bool) -> None:
    """Install the programs that judge our images, where apt may; tests that need one are skipped elsewhere."""
    missing = [package for program, package in _JUDGES.items() if shutil.which(program) is None]
    if not missing or not install or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    progress.say(f"Installing {', '.join(missing)} with apt-get, to judge the images.")
    from lockstep.servers import read_servers

    environment = {**read_servers().proxies.environment(), "DEBIAN_FRONTEND": "noninteractive"}
    quiet = {"env": environment, "check": False}
    subprocess.run(["apt-get", "update", "-qq"], **quiet)  # type: ignore[call-overload]
    subprocess.run(["apt-get", "install", "-y", "-qq", *missing], **quiet)  # type: ignore[call-overload]
