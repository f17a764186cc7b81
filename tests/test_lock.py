"""The lock's file: what it holds, who can read it, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lockstep.errors import LockError
from lockstep.lock import (
    Bootstrap,
    Lock,
    LockedBase,
    LockedDeb,
    LockedPackage,
    compare_locks,
    dump_lock,
    read_lock,
    write_lock,
)

PYTHON = LockedPackage(
    name="python",
    version="3.11.2",
    manager="conda",
    url="lockstep-bootstrap://linux-64/python-3.11.2-0.conda",
    sha256="c" * 64,
    size=12_345,
    md5="d" * 32,
    build="0",
    dependencies=(("libzlib", ">=1.2,<2"), ("tzdata", "")),
)
TORCH = LockedPackage(
    name="torch",
    version="2.14.1+cu130",
    manager="pip",
    url="https://wheels.test/torch-2.14.1%2Bcu130-cp311-cp311-manylinux_2_28_x86_64.whl",
    sha256="e" * 64,
    size=554_581_699,
)
LOCK = Lock(
    spec_hash="a" * 64,
    base=LockedBase("debian:12-slim", "sha256:" + "b" * 64, "bootstrap"),
    packages=(PYTHON, TORCH),
    channels=("conda-forge", "https://channels.test/ours"),
    virtual_packages=(("__cuda", "13.0"), ("__glibc", "2.36")),
    variables=(("ANSWER", "yes"), ("EMPTY", ""), ("WIDE", "x " * 200 + "ü: # é")),
    exclude_newer="2026-10-31T00:00:00Z",
    source_revision="f" * 40,
    bootstrap=Bootstrap(
        sources=("deb http://archive.test/debian bookworm main",),
        epoch=1_700_000_000,
        base_debs=(LockedDeb("libc6", "2.36-9+deb12u10", "pool/main/g/glibc/libc6.deb", "1" * 64, 7),),
        channel_debs=(LockedDeb("python3.11", "3.11.2-6", "pool/main/p/python3.11.deb", "2" * 64, 8),),
    ),
    sources=("pytorch-env.yml",),
)


def test_a_lock_survives_its_file(tmp_path: Path) -> None:
    """What was written is read back, and the hash is that of the file's bytes."""
    import hashlib

    path = tmp_path / "environments" / "x.conda-lock.yml"
    write_lock(LOCK, path)
    assert read_lock(path) == LOCK
    assert LOCK.hash == hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.read_bytes().endswith(b"\n")
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")
def test_conda_lock_reads_it(tmp_path: Path) -> None:
    """conda-lock's own parser, which forbids unknown keys, takes every package as we mean it."""
    from conda_lock.lockfile import parse_conda_lock_file

    path = tmp_path / "x.conda-lock.yml"
    write_lock(LOCK, path)
    found = {package.name: package for package in parse_conda_lock_file(path).package}
    assert set(found) == {"python", "torch"}
    assert (found["python"].manager, found["python"].hash.md5) == ("conda", "d" * 32)
    assert (found["torch"].url, found["torch"].hash.sha256) == (TORCH.url, "e" * 64)


def test_names_of_a_package() -> None:
    """A file name is decoded from the URL; the key tells conda's package from pip's of the same name."""
    assert TORCH.filename == "torch-2.14.1+cu130-cp311-cp311-manylinux_2_28_x86_64.whl"
    assert (PYTHON.key, TORCH.key) == ("conda/python", "pip/torch")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("e" * 64, "f" * 64),
        ("'554581699'", "'554581698'"),
        ("sha256:bbb", "sha256:abb"),
        ("debian:12-slim", "debian:13-slim"),
        ("version: 3.11.2", "version: 3.11.3"),
        ("ANSWER: 'yes'", "ANSWER: 'no'"),
        ("linux-64: aaa", "linux-64: baa"),
    ],
)
def test_an_edit_by_hand_is_refused(tmp_path: Path, before: str, after: str) -> None:
    """Whatever is changed in the file, the content hash tells."""
    path = tmp_path / "x.conda-lock.yml"
    write_lock(LOCK, path)
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    with pytest.raises(LockError, match="edited by hand") as refused:
        read_lock(path)
    assert "./invoke lock" in refused.value.remedy


def test_comments_and_layout_are_no_edit(tmp_path: Path) -> None:
    """A comment, or another tool's line breaks, change neither content nor identity."""
    path = tmp_path / "x.conda-lock.yml"
    write_lock(LOCK, path)
    path.write_text("# reviewed\n" + path.read_text().replace("\n- name: torch", "\n\n- name: torch"))
    assert read_lock(path).hash == LOCK.hash


@pytest.mark.parametrize(
    "text", ["", "[]", "version: 1\n", "version: 1\nmetadata: {}\npackage: []\n", "text"]
)
def test_another_file_is_refused_in_words(tmp_path: Path, text: str) -> None:
    """What isn't a lock of ours gives an error with a remedy, never a traceback."""
    path = tmp_path / "x.conda-lock.yml"
    path.write_text(text)
    with pytest.raises(LockError, match="isn't a lock that Lockstep wrote"):
        read_lock(path)


def test_broken_yaml_has_a_place(tmp_path: Path) -> None:
    """A merge conflict, say, is named with its line."""
    path = tmp_path / "x.conda-lock.yml"
    write_lock(LOCK, path)
    path.write_text(path.read_text().replace("package:\n", "<<<<<<< HEAD\npackage:\n"))
    with pytest.raises(LockError, match=r"isn't YAML, line \d+, column \d+"):
        read_lock(path)


def test_no_lock_names_the_command(tmp_path: Path) -> None:
    """A missing lock says how to make it."""
    with pytest.raises(LockError, match="There is no lock") as missing:
        read_lock(tmp_path / "none.yml")
    assert "./invoke lock" in str(missing.value)


@pytest.mark.parametrize(
    "url", ["https://me:secret@wheels.test/a-1-py3-none-any.whl", "https://w.test/a.whl?token=s"]
)
def test_credentials_are_never_written(tmp_path: Path, url: str) -> None:
    """The last gate: a URL with a password isn't written, and the error doesn't show it."""
    path = tmp_path / "x.conda-lock.yml"
    with pytest.raises(LockError) as refused:
        write_lock(replace(LOCK, packages=(replace(TORCH, url=url),)), path)
    assert "secret" not in str(refused.value)
    assert not path.exists()


def test_a_failed_write_leaves_the_old_lock(tmp_path: Path) -> None:
    """A lock that can't be written leaves the one before, and nothing beside it."""
    path = tmp_path / "x.conda-lock.yml"
    write_lock(LOCK, path)
    before = path.read_bytes()
    with pytest.raises(LockError):
        write_lock(replace(LOCK, packages=(replace(TORCH, url="https://a:b@c.test/d.whl"),)), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_changes_are_told() -> None:
    """New, gone and changed packages, a moved base and variables are each one line."""
    newer = replace(TORCH, version="2.15.0", sha256="9" * 64)
    six = replace(TORCH, name="six", version="1.17.0")
    new = replace(
        LOCK,
        packages=(newer, six),
        base=replace(LOCK.base, digest="sha256:" + "3" * 64),
        variables=(("ANSWER", "no"),),
    )
    lines = [str(change) for change in compare_locks(LOCK, new)]
    assert "~ pip/torch 2.14.1+cu130 (sha256 eeeeeeee) -> 2.15.0 (sha256 99999999)" in lines
    assert "- conda/python 3.11.2 0 (sha256 cccccccc)" in lines
    assert "+ pip/six 1.17.0 (sha256 eeeeeeee)" in lines
    assert "~ variable ANSWER yes -> no" in lines
    assert any(line.startswith("~ base image") for line in lines)
    assert compare_locks(LOCK, LOCK) == ()
    assert len(compare_locks(None, LOCK)) > 2


def test_equal_values_give_equal_bytes() -> None:
    """The same lock is the same file, whatever the hash seed (the value holds no sets)."""
    assert dump_lock(LOCK) == dump_lock(replace(LOCK))


ODD_TEXTS = [
    "plain",
    "1e3",
    "~",
    "it's: # odd",
    "é" * 200,
    "word " * 400,
    "two\nlines\n\n",
    "\ttab ",
    "\x07",
    "\x7f",
    "\x85",
    "\xa0",
    "\u2028",
    "\ufeff",
    "😀",
    "é and 😀",
]


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_the_identity_doesnt_depend_on_how_yaml_was_installed(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyYAML writes with libyaml where it has it, else by itself: the lock and its hash are the same."""
    import yaml

    lock = replace(LOCK, variables=(("TEXT", text), (text, "x")))
    with_libyaml = dump_lock(lock)
    monkeypatch.delattr(yaml, "CSafeDumper")
    monkeypatch.delattr(yaml, "CSafeLoader")
    assert dump_lock(lock) == with_libyaml
    write_lock(lock, tmp_path / "x.conda-lock.yml")
    assert read_lock(tmp_path / "x.conda-lock.yml").hash == lock.hash
