"""Cleaning: everything that can be made again goes, in a checkout with and without a lock."""

from __future__ import annotations

import re
from pathlib import Path

from lockstep.home import IN_USE, MADE_AGAIN, Home
from tests.conftest import ROOT, Checkout

_FOLDER = re.compile(r'\b(?:home|self)\.path / "([^"]+)"')


def test_everything_leaves_only_what_may_be_in_use(checkout: Checkout, tmp_path: Path) -> None:
    """In a checkout without a lock: every folder that can be made again is gone, and no other was known."""
    home = Home(tmp_path / "home")
    for folder in home.made_again:
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "file").write_bytes(bytes(1_000_000))
    environment = {"LOCKSTEP_HOME": str(home.path)}
    assert not list(checkout.root.glob("environments/*.conda-lock.yml"))
    told = checkout.invoke("clean", "--everything", "--dry-run", environment=environment)
    assert told.returncode == 0, told.stderr
    assert all((folder / "deep" / "file").exists() for folder in home.made_again)
    done = checkout.invoke("clean", "--everything", environment=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("1.0 MB") == len(MADE_AGAIN)
    assert {x.name for x in home.path.iterdir()} <= set(IN_USE)


def test_no_folder_of_home_is_forgotten() -> None:
    """Every folder that the code makes in LOCKSTEP_HOME is one that cleaning knows of."""
    found = {
        name
        for path in (ROOT / "lockstep").rglob("*.py")
        for name in _FOLDER.findall(path.read_text())
        if path.parent.name != "workspace"
    }
    assert {"packages", "repodata", "fingerprints"} <= found
    assert found <= {*MADE_AGAIN, *IN_USE}
