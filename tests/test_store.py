"""Store: blobs that are whole or absent, images read back, and what collecting leaves."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from lockstep.errors import IntegrityError
from lockstep.home import Home
from lockstep.image import Image, compose, digest_of
from lockstep.image.store import Store
from lockstep.layers.assemble import assemble, assembled
from tests.packages import Made, base_image, conda, lock_of, put, wheel

PYTHON = conda("python", "3.11.0", {"share/python": "not run"})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(Home(tmp_path))


def built(store: Store, *packages: Made) -> Image:
    """Build an image of packages and keep it."""
    lock = lock_of(PYTHON, *packages)
    layers = assemble(lock, put(store.home, PYTHON, *packages), store.home)
    image = compose(base_image(store), layers, lock)
    store.save_image(image)
    return image


def test_a_blob_appears_whole(store: Store) -> None:
    """While it is written a blob isn't there; afterwards it is, under its digest, readable by all."""
    digest = digest_of(b"content")
    with store.incoming(digest) as file:
        file.write(b"content")
        assert not store.has(digest)
    assert store.blob(digest).read_bytes() == b"content"
    assert store.blob(digest).stat().st_mode & 0o777 == 0o644
    assert store.put(b"content") == digest


def test_other_bytes_than_the_digest_says_are_refused(store: Store) -> None:
    """What isn't what its digest says never gets in, and nothing of it stays."""
    digest = digest_of(b"expected")
    with (
        pytest.raises(IntegrityError, match=hashlib.sha256(b"found").hexdigest()),
        store.incoming(digest) as file,
    ):
        file.write(b"found")
    assert not store.has(digest)
    assert not list((store.home.path / "tmp").iterdir())


def test_an_image_is_read_back(store: Store) -> None:
    """By its ID an image comes back as it was, and not at all once its config is gone."""
    image = built(store, wheel("one", files={"one.txt": "1"}))
    assert store.image(image.id) == image
    assert store.image_ids() == (image.id,)
    store.blob(image.id).unlink()
    assert store.image(image.id) is None


def test_collecting_leaves_what_an_image_needs(store: Store) -> None:
    """Everything of the kept image stays, base and the packages behind a shared layer too; the rest goes."""
    one, two = wheel("one", files={"one.txt": "1"}), wheel("two", files={"two.txt": "2" * 100_000})
    kept, gone = built(store, one), built(store, one, two)
    base = base_image(store)
    store.save_image(base)
    there = sum(x.stat().st_size for x in store.home.layers.rglob("*") if x.is_file())
    promised = store.collect([kept], dry_run=True)
    freed = store.collect([kept])
    left = sum(x.stat().st_size for x in store.home.layers.rglob("*") if x.is_file())
    assert there - left == freed >= promised > 200_000
    assert store.image(kept.id) == kept
    assert all(store.has(x.digest) for x in kept.layers)
    assert store.image(base.id) == base
    assert store.image(gone.id) is None
    assert assembled(lock_of(PYTHON, one), store.home) is not None
    assert assembled(lock_of(PYTHON, one, two), store.home) is None
    store.blob(kept.layers[-1].digest).unlink()
    assert assemble(lock_of(PYTHON, one), {}, store.home)[-1].diff_id == kept.layers[-1].diff_id


def test_collecting_takes_the_unpacked_interpreters(store: Store) -> None:
    """They are counted, and gone afterwards."""
    program = store.home.interpreters / "key" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_bytes(bytes(5_000_000))
    assert store.collect([], dry_run=True) >= 5_000_000
    assert store.collect([]) >= 5_000_000
    assert not store.home.interpreters.exists()


def test_collecting_nothing_frees_everything(store: Store) -> None:
    """With no image to keep, no blob and no record stays."""
    built(store, wheel("one", files={"one.txt": "1"}))
    assert store.collect([]) > 0
    assert not [x for x in store.home.layers.rglob("*") if x.is_file()]
