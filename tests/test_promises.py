"""What people may rely on, tried with the tasks themselves: one lock, one image; never half; words."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from lockstep.home import IN_USE
from tests.conftest import ROOT, Checkout, copy_checkout, small_spec

pytestmark = [pytest.mark.engine, pytest.mark.network]


@dataclass(frozen=True)
class Warm:
    """A checkout that has built a small image once, and the store in which it did."""

    checkout: Checkout
    home: Path
    image_id: object

    def other(self, root: Path, home: Path) -> Checkout:
        """Return another checkout with the same lock; its store has the downloads, but no layers."""
        home.mkdir()
        for part in ("packages", "bootstrap"):
            subprocess.run(["cp", "-al", str(self.home / part), str(home / part)], check=True)
        made = copy_checkout(root)
        small_spec(made.root)
        for lock in self.checkout.root.glob("environments/*.conda-lock.yml"):
            shutil.copy(lock, made.root / "environments" / lock.name)
        return made


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Warm:
    """Lock and build a small environment from nothing."""
    root = tmp_path_factory.mktemp("warm")
    made = copy_checkout(root / "checkout")
    small_spec(made.root)
    built = made.told("build", environment={"LOCKSTEP_HOME": str(root / "home"), "TZ": "UTC"})
    return Warm(made, root / "home", built["image_id"])


def test_one_lock_gives_one_image_under_other_conditions(warm: Warm, tmp_path: Path) -> None:
    """Another path, home, time zone, locale, umask and hash seed give the same image ID."""
    other = warm.other(tmp_path / "deep" / "er" / "другой путь", tmp_path / "another home")
    conditions = {"TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONHASHSEED": "4711"}
    environment = {**conditions, "LOCKSTEP_HOME": str(tmp_path / "another home")}
    assert other.told("build", "--locked", environment=environment, umask=0o077)["image_id"] == warm.image_id


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_another_user_gets_the_same_image(warm: Warm, tmp_path: Path) -> None:
    """A user with no privileges but the engine's socket makes the same image (in a user namespace)."""
    other = warm.other(tmp_path / "checkout", tmp_path / "home")
    environment = {"LOCKSTEP_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}
    somebody = ("unshare", "--user", "--map-user=12345", "--map-group=12345")
    told = other.told("build", "--locked", environment=environment, before=somebody)
    assert told["image_id"] == warm.image_id


@pytest.mark.slow
def test_clean_then_build_gives_the_same_image(warm: Warm, tmp_path: Path) -> None:
    """After `clean --everything`, base, channel, layers and image are made again, with the same ID."""
    other = warm.other(tmp_path / "checkout", tmp_path / "home")
    environment = {"LOCKSTEP_HOME": str(tmp_path / "home")}
    cleaned = other.invoke("clean", "--everything", environment=environment)
    assert cleaned.returncode == 0, cleaned.stderr
    assert {path.name for path in (tmp_path / "home").iterdir()} <= set(IN_USE)
    again = other.told("build", "--locked", environment=environment)
    assert again["image_id"] == warm.image_id
    assert again["layers_new_in_engine"]


def test_killed_build_is_made_good_by_the_next(warm: Warm, tmp_path: Path) -> None:
    """`kill -9` at several moments; the next build gives the image of an undisturbed one."""
    other = warm.other(tmp_path / "checkout", tmp_path / "home")
    environment = {"LOCKSTEP_HOME": str(tmp_path / "home")}
    for seconds in (0.7, 1.3, 2.0, 3.0):
        process = subprocess.Popen(
            other.command("build", "--locked"),
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(seconds)  # how far it has come is chance: whatever it was doing, it ends there
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert other.told("build", "--locked", environment=environment)["image_id"] == warm.image_id
    assert not list((tmp_path / "home" / "tmp").iterdir())  # what the killed ones left is swept


def test_two_builds_at_once_are_both_right(warm: Warm, tmp_path: Path) -> None:
    """Two processes in one checkout and one in another, with one store without layers, give one image."""
    one = warm.other(tmp_path / "checkout", tmp_path / "home")
    two = copy_checkout(tmp_path / "second")
    shutil.copytree(one.root / "environments", two.root / "environments", dirs_exist_ok=True)
    small_spec(two.root)
    environment = {**os.environ, "LOCKSTEP_HOME": str(tmp_path / "home")}
    processes = [
        subprocess.Popen(
            made.command("build", "--json"),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        for made in (one, one, two)
    ]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert {json.loads(output)["image_id"] for output in outputs} == {warm.image_id}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("name: small\nchannels: [conda-forge]\ndependencies:\n  - python=3.11\n bad", "line"),
        ("name: small\ndependencies:\n  - python=3.11\ndependancies: []\n", "dependancies"),
        ("name: small\ndependencies:\n  - bzip2\n", "Python"),
        ("name: small\ndependencies:\n  - python=3.11\n  - pip:\n    - six==99\n", "six"),
        ("name: small\ndependencies:\n  - python=3.11\n  - pip:\n    - -e .\n", "hash"),
    ],
    ids=["yaml", "unknown-key", "no-python", "unsolvable", "editable"],
)
def test_bad_spec_is_said_in_words(warm: Warm, checkout: Checkout, change: str, words: str) -> None:
    """Exit code 2, the words that mend it, no traceback, and no lock left behind."""
    (checkout.root / "environments" / "pytorch-env.yml").write_text(change)
    done = checkout.invoke("build", environment={"LOCKSTEP_HOME": str(warm.home)})
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(checkout.root.glob("environments/*.conda-lock.yml"))


def test_stale_lock_is_refused_when_locked(warm: Warm, checkout: Checkout) -> None:
    """`--locked` names the command that makes a stale lock anew."""
    for lock in warm.checkout.root.glob("environments/*.conda-lock.yml"):
        shutil.copy(lock, checkout.root / "environments" / lock.name)
    small_spec(checkout.root, "toml==0.10.2")
    done = checkout.invoke("build", "--locked")
    assert done.returncode == 2
    assert "./invoke lock" in done.stderr


def test_list_is_quick_because_it_imports_no_sdk() -> None:
    """`./invoke --list` imports nothing slow; a count of modules can't be noisy."""
    code = (
        "import sys; sys.argv = ['invoke', '--search-root', sys.argv[1], '--list']\n"
        "from invoke.main import program\n"
        "program.run(exit=False)\n"
        "slow = {'docker', 'rattler', 'azureml', 'pydantic', 'rich', 'httpx'} & set(sys.modules)\n"
        "sys.exit(f'imported {slow}' if slow else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "train-local" in done.stdout
