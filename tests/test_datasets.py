"""Datasets: from archives, folders, CIFAR-10's own file and scikit-learn's digits."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
import sys
import tarfile
import time
import types
import zlib
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from lockstep.datasets import (
    choose_dataset,
    find_dataset,
    fingerprint,
    import_images,
    make_cifar10,
    make_digits,
    read_dataset,
)
from lockstep.datasets import cifar10 as cifar10_module
from lockstep.datasets.dataset import new_dataset, png
from lockstep.errors import IntegrityError, JobError
from lockstep.home import Home
from lockstep.progress import Progress
from lockstep.seal import read_record, sealed
from tests.loopback import Fault, Loopback


class Said(Progress):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A store of the test's own."""
    return Home(tmp_path / "home")


def archive(path: Path, files: dict[str, bytes | str]) -> Path:
    """Write a tar.gz; a str is where a symbolic link leads."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def pixels(image: bytes) -> bytes:
    """Decode what `png` writes: 32x32 RGB, no filter."""
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    at, content = 8, b""
    while at < len(image):
        (size,) = struct.unpack(">I", image[at : at + 4])
        kind, body = image[at + 4 : at + 8], image[at + 8 : at + 8 + size]
        assert struct.unpack(">I", image[at + 8 + size : at + 12 + size]) == (zlib.crc32(kind + body),)
        content += body if kind == b"IDAT" else b""
        at += 12 + size
    rows = zlib.decompress(content)
    assert rows[:: 32 * 3 + 1] == bytes(32)
    return b"".join(rows[start + 1 : start + 97] for start in range(0, len(rows), 97))


def test_a_png_gives_back_its_pixels() -> None:
    """The stream made by hand is checked by zlib."""
    rgb = bytes(index * 7 % 256 for index in range(32 * 32 * 3))
    assert pixels(png(rgb)) == rgb


def test_an_archive_becomes_a_dataset_and_nothing_is_written_elsewhere(tmp_path: Path, home: Home) -> None:
    """Hostile names keep only their last three parts, links and other files are passed over."""
    source = archive(
        tmp_path / "mine.tar.gz",
        {
            "top/train/cat/1.png": b"1",
            "top/train/dog/2.JPG": b"2",
            "top/test/cat/3.png": b"3",
            "../../train/cat/escaped.png": b"4",
            "/train/cat/absolute.png": b"5",
            "train/../up.png": b"6",
            "train/cat/link.png": "/etc/passwd",
            "train/cat/notes.txt": b"7",
            "train/.hidden/8.png": b"8",
        },
    )
    said = Said()
    dataset = import_images(source, tmp_path / "project" / "data", home, said)
    assert str(dataset) == "mine: 4 train and 1 test images of 2 classes"
    assert sorted(path.name for path in (dataset.folder / "train" / "cat").iterdir()) == [
        *("1.png", "absolute.png", "escaped.png"),
    ]
    assert sorted(path.name for path in (tmp_path / "project").iterdir()) == ["data"]
    assert "4 files" in said.lines[0]


def test_a_folder_becomes_a_dataset_under_a_chosen_name(tmp_path: Path, home: Home) -> None:
    """The folder may be the one that holds train/, and may have no test/."""
    (tmp_path / "photos" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "train" / "cat" / "1.png").write_bytes(b"1")
    dataset = import_images(tmp_path / "photos", tmp_path / "data", home, name="cats")
    assert (dataset.name, dataset.train, dataset.test, dataset.classes) == ("cats", 1, 0, ("cat",))
    with pytest.raises(JobError, match="there already"):
        import_images(tmp_path / "photos", tmp_path / "data", home, name="cats")


@pytest.mark.parametrize("content", [b"not an archive", b"\x1f\x8b\x08broken", b""])
def test_a_broken_archive_leaves_nothing(tmp_path: Path, home: Home, content: bytes) -> None:
    """It ends in words, and data/ has no dataset afterwards."""
    (tmp_path / "broken.tar.gz").write_bytes(content)
    with pytest.raises(JobError):
        import_images(tmp_path / "broken.tar.gz", tmp_path / "data", home)
    assert not (tmp_path / "data" / "broken").exists()


def test_a_truncated_archive_leaves_nothing(tmp_path: Path, home: Home) -> None:
    """As after a download that broke off."""
    whole = archive(tmp_path / "a.tar.gz", {f"train/cat/{n}.png": os.urandom(5000) for n in range(20)})
    (tmp_path / "cut.tar.gz").write_bytes(whole.read_bytes()[:50_000])
    with pytest.raises(JobError, match="broken"):
        import_images(tmp_path / "cut.tar.gz", tmp_path / "data", home)
    assert [path.name for path in (tmp_path / "data").iterdir()] == [".cut.lock"]


def test_an_archive_without_class_folders_says_what_was_expected(tmp_path: Path, home: Home) -> None:
    """The message shows the layout."""
    source = archive(tmp_path / "flat.tar.gz", {"cat1.png": b"1"})
    with pytest.raises(JobError, match="train/<class>/<image>"):
        import_images(source, tmp_path / "data", home)


def test_what_a_killed_process_left_is_made_anew(tmp_path: Path) -> None:
    """A half-made dataset is never taken for a whole one."""
    (tmp_path / ".mine.part" / "train" / "old").mkdir(parents=True)
    with new_dataset(tmp_path, "mine") as folder:
        assert folder is not None
        assert list(folder.iterdir()) == []
        (folder / "train" / "cat").mkdir(parents=True)
        (folder / "train" / "cat" / "1.png").touch()
    assert read_dataset(tmp_path / "mine").classes == ("cat",)


class FakeArray:
    """Pickles as numpy's arrays do, without numpy."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __reduce__(self) -> tuple[Any, ...]:
        fake = sys.modules["numpy.core.multiarray"]
        return fake._reconstruct, (), (1, (len(self.content) // 3072, 3072), None, False, self.content)


@pytest.fixture
def cifar10_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-10's own file in small: two classes, one image in each of its six batches."""

    def _reconstruct() -> FakeArray:
        return FakeArray(b"")

    module = types.ModuleType("numpy.core.multiarray")
    _reconstruct.__module__, _reconstruct.__qualname__ = module.__name__, "_reconstruct"
    module._reconstruct = _reconstruct  # type: ignore[attr-defined]
    for name in ("numpy", "numpy.core"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    files: dict[str, bytes | str] = {
        "cifar-10-batches-py/batches.meta": pickle.dumps({b"label_names": [b"airplane", b"truck"]})
    }
    for number, name in enumerate([*(f"data_batch_{part}" for part in range(1, 6)), "test_batch"]):
        planes = b"".join(bytes([number * 10 + colour]) * 1024 for colour in range(3))
        batch = {b"labels": [number % 2], b"data": FakeArray(planes)}
        files[f"cifar-10-batches-py/{name}"] = pickle.dumps(batch)
    return archive(tmp_path / "cifar-10-python.tar.gz", files)


def test_cifar10_s_file_becomes_images(tmp_path: Path, home: Home, cifar10_file: Path) -> None:
    """Classes by their names, colours where they belong; also through `--source`."""
    dataset = import_images(cifar10_file, tmp_path / "data", home)
    assert str(dataset) == "cifar10: 5 train and 1 test images of 2 classes"
    image = tmp_path / "data" / "cifar10" / "train" / "truck" / "00001.png"
    assert pixels(image.read_bytes())[:6] == bytes([10, 11, 12, 10, 11, 12])
    assert make_cifar10(tmp_path / "data", home) == dataset


def test_cifar10_is_fetched_and_checked(
    tmp_path: Path, home: Home, cifar10_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken connection is gone on with; other bytes than the known ones are refused and leave no dataset."""
    content, path = cifar10_file.read_bytes(), "/cifar-10-python.tar.gz"
    with Loopback(files={path: content}, faults={path: deque([Fault(cut=100)])}) as server:
        monkeypatch.setattr(cifar10_module, "URL", f"{server.url}{path}")
        monkeypatch.setattr(cifar10_module, "SIZE", len(content))
        with pytest.raises(IntegrityError, match="cifar-10-python"):
            make_cifar10(tmp_path / "data", home)
        assert not (tmp_path / "data" / "cifar10").exists()
        assert [x.headers["Range"] for x in server.requests[:2]] == [None, "bytes=100-"]
        monkeypatch.setattr(cifar10_module, "SHA256", hashlib.sha256(content).hexdigest())
        made = make_cifar10(tmp_path / "data", home)
    assert str(made) == "cifar10: 5 train and 1 test images of 2 classes"


def test_a_pickle_that_wants_to_run_something_is_refused(tmp_path: Path, home: Home) -> None:
    """Nothing but what CIFAR-10 holds can be made from a pickle."""

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path}/bombed",)

    source = archive(tmp_path / "c.tar.gz", {"cifar-10-batches-py/batches.meta": pickle.dumps(Bomb())})
    with pytest.raises(JobError, match="wants to make"):
        import_images(source, tmp_path / "data", home)
    assert not (tmp_path / "bombed").exists()


def test_a_fingerprint_follows_content_and_names(tmp_path: Path, home: Home) -> None:
    """Also when size and modification time stay as they were."""
    folder = tmp_path / "data"
    (folder / "train").mkdir(parents=True)
    file = folder / "train" / "1.png"
    file.write_bytes(b"one")
    first = fingerprint(folder, home)
    state = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    second = fingerprint(folder, home)
    file.rename(folder / "train" / "2.png")
    third = fingerprint(folder, home)
    file.write_bytes(b"more")
    assert len({first, second, third, fingerprint(folder, home)}) == 4
    file.unlink()
    (folder / "train" / "2.png").rename(file)
    file.write_bytes(b"one")
    assert fingerprint(folder, home) == first


def test_a_fingerprint_is_remembered_once_the_files_have_settled(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time no file is read; a change is still seen."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "1.png").write_bytes(b"one")
    monkeypatch.setattr(time, "time", lambda: (folder / "1.png").stat().st_ctime + 10)
    first = fingerprint(folder, home)
    (kept,) = (home.path / "fingerprints").iterdir()
    told = read_record(kept) or {}
    kept.write_bytes(sealed(kept, {**told, "fingerprint": "sha256:remembered"}))
    assert fingerprint(folder, home) == "sha256:remembered"
    (folder / "2.png").write_bytes(b"two")
    assert fingerprint(folder, home).startswith("sha256:")
    assert fingerprint(folder, home) not in (first, "sha256:remembered")


def test_what_is_there_is_taken_and_a_wrong_name_is_said(tmp_path: Path, home: Home) -> None:
    """The newest, but CIFAR-10 before all; nothing is fetched for that."""
    data = tmp_path / "data"
    for name in ("mine", "other"):
        with new_dataset(data, name) as folder:
            assert folder is not None
            (folder / "train" / "cat").mkdir(parents=True)
            (folder / "train" / "cat" / "1.png").touch()
    os.utime(data / "mine", (1, 1))
    assert choose_dataset(data, "", home) == data / "other"
    assert choose_dataset(data, "mine", home) == data / "mine"
    (data / "mine").rename(data / "cifar10")
    assert choose_dataset(data, "", home) == data / "cifar10"
    assert find_dataset(data, "") == data / "cifar10"
    assert find_dataset(data, "digits") is None
    assert find_dataset(tmp_path / "none", "") is None
    with pytest.raises(JobError, match="there are: cifar10, other"):
        choose_dataset(data, "nothing", home)


@pytest.mark.network
def test_digits_come_from_the_package_index(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where CIFAR-10 can't be had they are the choice, said so, and always the same bytes."""
    monkeypatch.setattr(cifar10_module, "URL", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    said = Said()
    folder = choose_dataset(tmp_path / "data", "", home, said)
    assert str(read_dataset(folder)) == "digits: 1,438 train and 359 test images of 10 classes"
    assert any("can't be downloaded" in line for line in said.lines)
    assert fingerprint(folder, home) == (
        "sha256:e4d5dbd9ba6ba29ffc3dd8205b0dd2017f87a18ca12f8992ec2f5df2c62ff058"
    )
    make_digits(tmp_path / "again", home)
    assert fingerprint(tmp_path / "again" / "digits", home) == fingerprint(folder, home)
