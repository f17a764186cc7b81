"""Inspection: `doctor --store` names each damaged thing once, and puts it aside."""

from __future__ import annotations

import json
from pathlib import Path

from lockstep.home import Home
from lockstep.image import digest_of
from lockstep.image.store import Store
from lockstep.inspection import inspect
from lockstep.seal import seal_folder
from tests.conftest import Checkout
from tests.test_damage import flip


def filled(home: Home) -> list[Path]:
    """Fill a store with a thing of each kind and return a file of each."""
    store = Store(home)
    blob = store.put(b"layer")
    store.write_json("made", "key", {"diff_id": blob})
    package = home.package(digest_of(b"package").removeprefix("sha256:"))
    package.parent.mkdir(parents=True)
    package.write_bytes(b"package")
    package.with_name(f"{package.name}.part").write_bytes(b"half of another")
    inside = [home.bootstrap / "channel-1" / "noarch" / "repodata.json", home.interpreters / "key" / "python"]
    for path in inside:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"content")
    seal_folder(home.bootstrap / "channel-1")
    seal_folder(home.interpreters / "key")
    return [store.blob(blob), home.layers / "made" / "key.json", package, *inside]


def test_each_kind_is_found_named_and_put_aside(tmp_path: Path) -> None:
    """A bit in a thing of each kind: all are named, and the next look finds nothing wrong."""
    home = Home(tmp_path)
    hurt = filled(home)
    whole = inspect(home)
    assert (whole.checked, whole.damaged) == (5, ())
    for path in hurt:
        flip(path)
    found = inspect(home)
    assert len(found.damaged) == found.checked == 5
    assert not any(path.exists() for path in hurt)
    assert inspect(home).damaged == ()


def test_a_file_that_no_sum_names_is_found(tmp_path: Path) -> None:
    """A folder holds what was sealed: nothing less, nothing more."""
    home = Home(tmp_path)
    filled(home)
    (home.interpreters / "key" / "more.py").write_text("")
    (line,) = inspect(home).damaged
    assert "more.py" in line


def test_the_task_says_it_with_an_exit_code(checkout: Checkout, tmp_path: Path) -> None:
    """`doctor --store`: 0 where all is whole, 1 where something was damaged, also as JSON."""
    environment = {"LOCKSTEP_HOME": str(tmp_path / "home")}
    hurt = filled(Home(tmp_path / "home"))
    done = checkout.invoke("doctor", "--store", environment=environment)
    assert (done.returncode, done.stdout.startswith("ok ")) == (0, True), done.stderr
    flip(hurt[0])
    done = checkout.invoke("doctor", "--store", "--json", environment=environment)
    assert done.returncode == 1
    (line,) = json.loads(done.stdout)["damaged"]
    assert str(hurt[0]) in line
    assert checkout.invoke("doctor", "--store", environment=environment).returncode == 0
