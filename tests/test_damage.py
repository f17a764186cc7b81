"""Damage: whatever kind of thing in the store is hurt, the same command ends as if nothing had been."""

from __future__ import annotations

import json
import random
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lockstep.builds import Build, builds, remember
from lockstep.damage import damaged, hash_of, is_there, repaired
from lockstep.datasets.fingerprint import fingerprint
from lockstep.errors import DamagedError
from lockstep.home import Home
from lockstep.image import Image, compose
from lockstep.image.layer import LARGE
from lockstep.image.store import Store
from lockstep.inspection import inspect
from lockstep.layers.assemble import assemble, assembled, checked
from lockstep.progress import Progress
from lockstep.seal import read_record
from tests.packages import base_image, conda, lock_of, put, python_package, wheel

PYTHON = conda("python", "3.11.0", {"share/python": "not run"})
PACKAGES = (PYTHON, wheel("one", files={"one.txt": "1"}), wheel("two", files={"two.txt": "2" * 5_000}))
LOCK = lock_of(*PACKAGES)


class Lines(Progress):
    """A progress that keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def build(home: Home, progress: Progress) -> Image:
    """Fetch what is missing, assemble, compose and read back, as a build does."""
    store = Store(home)

    def once() -> Image:
        for known in store.image_ids():  # what `image` shows
            store.image(known)
        gone = [x for x in PACKAGES if not is_there(home.package(x.locked.sha256), x.locked.size)]
        put(home, *gone)
        paths = {x.locked.sha256: home.package(x.locked.sha256) for x in PACKAGES}
        image = compose(base_image(store), assemble(LOCK, paths, home), LOCK)
        store.save_image(image)
        return image

    return repaired(once, progress)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store that has built an image."""
    folder = tmp_path_factory.mktemp("pristine") / "home"
    build(Home(folder), Lines())
    return folder


@pytest.fixture
def home(pristine: Path, tmp_path: Path) -> Home:
    """A copy of that store, to hurt."""
    shutil.copytree(pristine, tmp_path / "home")
    return Home(tmp_path / "home")


def flip(path: Path) -> None:
    """Turn one bit in the middle of a file over."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def cut(path: Path) -> None:
    """Take a file's last bytes away."""
    path.write_bytes(path.read_bytes()[:-10])


def empty(path: Path) -> None:
    """Leave a file without content."""
    path.write_bytes(b"")


def folder(path: Path) -> None:
    """Put a folder in a file's place."""
    path.unlink()
    path.mkdir()
    (path / "file").write_text("something")


def link(path: Path) -> None:
    """Put a link in a file's place."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


HURTS = (flip, cut, empty, folder, link)


def records(home: Home, kind: str) -> list[Path]:
    """Return the paths of the records of a kind."""
    return sorted((home.layers / kind).glob("*.json"))


def forget_shared(home: Home) -> None:
    """Remove the shared layer, so that it is merged anew from the layers of its packages."""
    for path in records(home, "made"):
        told = json.loads(path.read_bytes())
        if told["members"]:
            path.unlink()
            Store(home).blob(told["diff_id"]).unlink()


def a_member(home: Home) -> Path:
    """Return the record of a small package's layer."""
    forget_shared(home)
    return next(x for x in records(home, "made") if not json.loads(x.read_bytes())["members"])


def the_members_blob(home: Home) -> Path:
    """Return the blob of a small package's layer, which the next merge reads."""
    return Store(home).blob(json.loads(a_member(home).read_bytes())["diff_id"])


def a_package(home: Home) -> Path:
    """Return a package that the next build reads."""
    shutil.rmtree(home.layers / "made")
    return home.package(PACKAGES[2].locked.sha256)


def the_config(home: Home) -> Path:
    """Return the blob of the image's config."""
    return Store(home).blob(Store(home).image_ids()[0])


PLACES: dict[str, Callable[[Home], Path]] = {
    "a layer that is merged": the_members_blob,
    "the record of a layer": a_member,
    "the record of a layer's files": lambda home: home.layers / "files" / a_member(home).name,
    "the record of a lock's layers": lambda home: records(home, "locks")[0],
    "the record of an image": lambda home: records(home, "images")[0],
    "the config of an image": the_config,
    "a package": a_package,
}


@pytest.mark.parametrize("hurt", HURTS)
@pytest.mark.parametrize("place", PLACES)
def test_the_same_command_gives_the_same_image(home: Home, place: str, hurt: Callable[[Path], None]) -> None:
    """One line says what is damaged, and the image is the one that it was; so is the store."""
    expected = build(Home(home.path), Lines())
    path = PLACES[place](home)
    if place != "the record of a lock's layers":
        shutil.rmtree(home.layers / "locks")
    hurt(path)
    said = Lines()
    assert build(home, said) == expected
    assert len([x for x in said.lines if f"{path} is damaged" in x]) == 1
    again = Lines()
    assert build(home, again) == expected
    assert not again.lines
    for layer in expected.layers:
        Store(home).check(layer.digest)
    assert not inspect(home).damaged or hurt is link  # what the link led to has a name that is no hash


def test_a_build_with_nothing_to_do_reads_no_layer(home: Home) -> None:
    """It asks for names and sizes only."""
    for path in home.layers.glob("sha256/*"):
        flip(path)
    assert assembled(LOCK, home) is not None


def test_a_layer_of_another_size_is_seen_without_reading_it(home: Home) -> None:
    """A truncated blob isn't there for `assembled`, and is gone afterwards."""
    layers = assembled(LOCK, home)
    assert layers
    cut(Store(home).blob(layers[0].diff_id))
    with pytest.raises(DamagedError, match="bytes, found"):
        assembled(LOCK, home)
    assert assembled(LOCK, home) is None


@pytest.mark.parametrize(
    "text", ["{", "[]", "5", "null", "\x00\xff", '{"diff_id": 5}', "[" * 100_000, '{"seal": 1}']
)
def test_a_record_of_any_content_ends_in_no_traceback(home: Home, text: str) -> None:
    """Whatever stands in a record's place, what it stood for is made again."""
    expected = build(Home(home.path), Lines())
    for kind in ("made", "files", "locks", "images"):
        for path in records(home, kind):
            path.write_bytes(text.encode("latin-1"))
    assert build(home, Lines()) == expected


def test_a_record_in_anothers_place_is_seen(home: Home) -> None:
    """A whole record that lies under another key isn't that key's."""
    a_member(home)
    one, two, *_ = records(home, "made")
    one.write_bytes(two.read_bytes())
    with pytest.raises(DamagedError, match="seal is broken"):
        Store(home).layer(one.stem)


def test_the_interpreter_that_compiles_is_checked(tmp_path: Path) -> None:
    """A bit in the unpacked Python: it is unpacked again, and the layers are the same."""
    home, python = Home(tmp_path), python_package()
    packages = (python, wheel("code", files={"code/__init__.py": "x = 1\n"}))
    lock = lock_of(*packages)
    expected = assemble(lock, put(home, *packages), home)
    (kept,) = home.interpreters.iterdir()
    victim = next(kept.glob("lib/python3*/ast.py"))
    before = hash_of(victim)
    flip(victim)
    shutil.rmtree(home.layers)
    said = Lines()
    assert repaired(lambda: assemble(lock, put(home, *packages), home), said) == expected
    assert "ast.py" in said.lines[0]
    assert hash_of(victim) == before


def test_what_is_damaged_again_and_again_is_an_error(tmp_path: Path) -> None:
    """A disk that fails doesn't keep a command busy for ever: it says what to do."""
    path = tmp_path / "thing"

    def fails() -> None:
        path.write_text("thing")
        raise damaged(path, "found something else")

    said = Lines()
    with pytest.raises(DamagedError, match="disk or the memory may be failing"):
        repaired(fails, said)
    assert len(said.lines) == 1
    assert not path.exists()


def test_a_link_is_put_aside_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    """What lies outside of the store isn't ours."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    (tmp_path / "link").symlink_to("mine")
    with pytest.raises(DamagedError):
        is_there(tmp_path / "link")
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "mine" / "file").read_text() == "mine"


def test_a_broken_fingerprint_is_computed_again(tmp_path: Path) -> None:
    """A bit in what is remembered never reaches a run's record."""
    home, data = Home(tmp_path / "home"), tmp_path / "data"
    data.mkdir()
    (data / "file").write_text("content")
    import time

    time.sleep(2.1)  # younger files aren't remembered
    expected = fingerprint(data, home)
    (remembered,) = home.fingerprints.iterdir()
    text = remembered.read_text()
    digit = "1" if expected[-1] != "1" else "2"
    remembered.write_text(text.replace(expected, expected[:-1] + digit))
    assert remembered.read_text() != text
    assert fingerprint(data, home) == expected


@pytest.mark.parametrize("text", ["{", "[5]", '[{"image_id": 5, "name": [], "lock_hash": {}}]', "\x00"])
def test_a_broken_build_record_of_a_checkout_is_forgotten(tmp_path: Path, text: str) -> None:
    """`.lockstep/builds.json` only says what was built before."""
    (tmp_path / "builds.json").write_text(text)
    assert builds(tmp_path) == ()
    build = Build("sha256:1", "name", "2")
    remember(tmp_path, build)
    assert builds(tmp_path) == (build,)


def test_a_damaged_layer_isnt_the_packages_fault(tmp_path: Path) -> None:
    """A bit in a large file, before it is compared with what its package states: the layer is made again."""
    home, big = Home(tmp_path), wheel("big", files={"big.bin": random.Random(1).randbytes(LARGE + 1000)})
    lock = lock_of(PYTHON, big)
    layers = assemble(lock, put(home, PYTHON, big), home)
    for layer in layers:
        if layer.size > LARGE:
            flip(Store(home).blob(layer.diff_id))
    with pytest.raises(DamagedError), checked(lock, home):
        pass
    assert assemble(lock, put(home, PYTHON, big), home) == layers
    with checked(lock, home):
        pass


def test_want_of_descriptors_is_no_damage(home: Home) -> None:
    """A process with too many open files can't open what is whole: that stays where it is."""
    blob = next(home.layers.glob("sha256/*"))
    record = next(home.layers.glob("made/*.json"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for read in (lambda: hash_of(blob), lambda: read_record(record)):
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                read()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert blob.exists()
    assert record.exists()
