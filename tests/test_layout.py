"""Layouts: written for other tools, read back, and judged by skopeo and umoci where they are installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lockstep.errors import DiskFullError, IntegrityError
from lockstep.home import Home
from lockstep.image import Image, compose
from lockstep.image.layer import EPOCH
from lockstep.image.layout import read_layout, write_layout
from lockstep.image.store import Store
from lockstep.layers.assemble import assemble
from tests.packages import File, base_image, conda, lock_of, put, wheel

PACKAGES = [
    conda(
        "python", "3.11.0", {"share/python": "not run", "lib/l.so": File(link="l.so.1"), "lib/l.so.1": "x"}
    ),
    wheel(
        "one", files={"one/" + "long" * 40 + ".txt": "1"}, entry_points="[console_scripts]\none = one:main\n"
    ),
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(Home(tmp_path / "home"))


@pytest.fixture
def image(store: Store) -> Image:
    """An image of two packages on a base."""
    lock = lock_of(*PACKAGES)
    return compose(base_image(store), assemble(lock, put(store.home, *PACKAGES), store.home), lock)


def test_a_layout_is_read_back(store: Store, image: Image, tmp_path: Path) -> None:
    """Another store gets the same image from the folder, all blobs included."""
    write_layout(image, store, tmp_path / "layout", "tag")
    other = Store(Home(tmp_path / "other"))
    assert read_layout(tmp_path / "layout", other) == image
    assert all(other.has(x.digest) for x in image.layers)


def test_a_damaged_layout_is_refused(store: Store, image: Image, tmp_path: Path) -> None:
    """A blob that isn't what its name says stays out of the store."""
    write_layout(image, store, tmp_path / "layout")
    digest = image.layers[0].digest
    path = tmp_path / "layout" / "blobs" / "sha256" / digest.removeprefix("sha256:")
    path.unlink()
    path.write_bytes(b"other")
    with pytest.raises(IntegrityError, match=digest):
        read_layout(tmp_path / "layout", Store(Home(tmp_path / "other")))


def test_a_folder_that_is_there_is_left_alone(store: Store, image: Image, tmp_path: Path) -> None:
    """Nothing is written over."""
    (tmp_path / "layout").mkdir()
    with pytest.raises(FileExistsError):
        write_layout(image, store, tmp_path / "layout")


def test_a_full_disk_leaves_nothing(store: Store, image: Image, tmp_path: Path) -> None:
    """A layout appears whole or not at all."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small disk takes root")
    try:
        with pytest.raises(DiskFullError):
            write_layout(image, store, disk / "layout")
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo isn't installed")
def test_skopeo_reads_it(store: Store, image: Image, tmp_path: Path) -> None:
    """skopeo agrees about the ID, and copies the image, which checks every digest."""  # noqa: D403
    write_layout(image, store, tmp_path / "layout", "v1")
    source = f"oci:{tmp_path / 'layout'}:v1"
    told = json.loads(subprocess.run(["skopeo", "inspect", source], capture_output=True, check=True).stdout)
    assert told["Digest"] == image.digest
    assert told["Layers"] == [x.digest for x in image.layers]
    raw = subprocess.run(["skopeo", "inspect", "--config", "--raw", source], capture_output=True, check=True)
    assert raw.stdout == image.config
    copy = ["skopeo", "copy", "--insecure-policy", source, f"docker-archive:{tmp_path / 'archive'}"]
    subprocess.run(copy, capture_output=True, check=True)


@pytest.mark.skipif(not shutil.which("umoci"), reason="umoci isn't installed")
def test_umoci_unpacks_it(store: Store, image: Image, tmp_path: Path) -> None:
    """umoci unpacks base and environment: names, modes, links and times as they should be."""  # noqa: D403
    write_layout(image, store, tmp_path / "layout", "v1")
    command = ["umoci", "unpack", "--image", f"{tmp_path / 'layout'}:v1", str(tmp_path / "bundle")]
    subprocess.run(command + (["--rootless"] if os.getuid() else []), capture_output=True, check=True)
    root = tmp_path / "bundle" / "rootfs"
    assert (root / "etc" / "base").read_text() == "base\n"
    assert os.readlink(root / "opt/env/lib/l.so") == "l.so.1"
    script = root / "opt/env/bin/one"
    assert script.stat().st_mode & 0o777 == 0o755
    assert script.stat().st_mtime == EPOCH
    assert (root / "opt/env/lib/python3.11/site-packages/one" / ("long" * 40 + ".txt")).read_text() == "1"
