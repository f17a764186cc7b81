"""What all tests may use: a copy of this checkout, and the image that its own commands build."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from lockstep import redaction

ROOT = Path(__file__).resolve().parents[1]

# A shell that starts the suite in the background makes it, and all that it starts, deaf to Ctrl-C; the tests try it.
signal.signal(signal.SIGINT, signal.default_int_handler)
PARTS = ("tasks.py", "invoke.yaml", "lockstep", "src", "docker", "environments", ".dockerignore")


class Checkout:
    """A checkout to run tasks in, as a person would, with the Python that runs the tests."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def command(self, *words: str) -> list[str]:
        """Return the command line of a task."""
        return [sys.executable, "-m", "invoke", "--search-root", str(self.root), *words]

    def invoke(
        self,
        *words: str,
        environment: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
        umask: int = -1,
    ) -> subprocess.CompletedProcess[str]:
        """Run a task without a terminal and return how it ended; `before` are words to put before it."""
        return subprocess.run(
            [*before, *self.command(*words)],
            cwd=self.root,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            umask=umask,
        )

    def told(
        self,
        *words: str,
        environment: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
        umask: int = -1,
    ) -> dict[str, object]:
        """Run a task that must work with `--json` and return what it told."""
        done = self.invoke(*words, "--json", environment=environment, before=before, umask=umask)
        assert done.returncode == 0, done.stderr + done.stdout
        return dict(json.loads(done.stdout))


def copy_checkout(root: Path) -> Checkout:
    """Copy what the tasks need into a new folder: no lock, no state, no data."""
    root.mkdir(parents=True)
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.conda-lock.yml")
            shutil.copytree(source, root / part, ignore=ignored)
        else:
            shutil.copy(source, root / part)
    return Checkout(root)


@pytest.fixture(autouse=True)
def no_secrets_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test begin without the secrets that another one's settings held: they are known to the process."""
    monkeypatch.setattr(redaction, "_known", set())
    monkeypatch.setattr(redaction, "_pattern", None)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A fresh copy of this checkout whose spec is small: Python and one wheel."""
    made = copy_checkout(tmp_path / "checkout")
    small_spec(made.root)
    return made


def small_spec(root: Path, *wheels: str) -> None:
    """Make a checkout's spec a small one, under an image name of its own."""
    lines = [
        "name: small",
        "channels: [conda-forge]",
        "dependencies:",
        "  - python=3.11",
        "  - pip",
        "  - pip:",
    ]
    lines += [f"    - {wheel}" for wheel in ("six==1.17.0", *wheels)]
    (root / "environments" / "pytorch-env.yml").write_text("\n".join(lines) + "\n")
    settings = root / "invoke.yaml"
    settings.write_text(settings.read_text().replace("lockstep/pytorch-env", "lockstep-test/small"))


@pytest.fixture(scope="session")
def torch_image() -> str:
    """The engine's ID of the default image, built by this checkout's own command: the whole road."""
    return str(Checkout(ROOT).told("build")["engine_id"])
