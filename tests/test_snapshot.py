"""The snapshot: which files travel, and that their copy is what was hashed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lockstep.errors import JobError
from lockstep.runs.snapshot import Snapshot, take_snapshot


def write(folder: Path, files: dict[str, str]) -> Path:
    """Write files of a source folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def names(snapshot: Snapshot) -> list[str]:
    """Return the paths in a snapshot."""
    return [file.path for file in snapshot.files]


def test_amlignore_decides_and_gitignore_only_without_it(tmp_path: Path) -> None:
    """As in Azure ML's SDK; the ignore file itself travels."""
    files = {"train.py": "1", "data/big.bin": "2", "lib/a.pyc": "3", ".gitignore": "train.py\n"}
    source = write(tmp_path / "one", {**files, ".amlignore": "data/\n*.pyc\n"})
    assert names(take_snapshot(source)) == [".amlignore", ".gitignore", "train.py"]
    source = write(tmp_path / "two", files)
    assert names(take_snapshot(source)) == [".gitignore", "data/big.bin", "lib/a.pyc"]


def test_the_same_files_have_the_same_hash_wherever_they_are(tmp_path: Path) -> None:
    """Path, modes and times don't count; content and names do."""
    one = take_snapshot(write(tmp_path / "one", {"a.py": "1", "b/c.py": "2"}))
    other_folder = write(tmp_path / "deep" / "two", {"b/c.py": "2", "a.py": "1"})
    (other_folder / "a.py").chmod(0o755)
    os.utime(other_folder / "a.py", (1, 1))
    other = take_snapshot(other_folder)
    assert one.hash == other.hash
    assert one.size == 2
    write(tmp_path / "one", {"a.py": "3"})
    assert take_snapshot(tmp_path / "one").hash != one.hash


def test_the_copy_is_whole_and_readable_by_all_whatever_the_umask(tmp_path: Path) -> None:
    """The container may run as anybody."""
    source = write(
        tmp_path / "src", {"train.py": "run", "lib/a b\n.py": "odd", ".amlignore": "x\n", "x": "no"}
    )
    (source / "train.py").chmod(0o700)
    before = os.umask(0o077)
    try:
        snapshot = take_snapshot(source, copy_to=tmp_path / "copy")
    finally:
        os.umask(before)
    assert names(snapshot) == [".amlignore", "lib/a b\n.py", "train.py"]
    assert (tmp_path / "copy" / "lib" / "a b\n.py").read_text() == "odd"
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "copy").rglob("*")}
    assert modes == {".amlignore": 0o644, "lib": 0o755, "a b\n.py": 0o644, "train.py": 0o755}
    assert take_snapshot(tmp_path / "copy").hash == snapshot.hash


def test_links_are_followed_and_those_that_lead_nowhere_refused(tmp_path: Path) -> None:
    """What a link names travels, as with Azure ML's SDK, which fails on these two."""
    source = write(tmp_path / "src", {"train.py": "run"})
    write(tmp_path / "shared", {"helper.py": "help"})
    (source / "shared").symlink_to(tmp_path / "shared")
    assert names(take_snapshot(source)) == ["shared/helper.py", "train.py"]
    (source / "gone").symlink_to("nothing")
    with pytest.raises(JobError, match="gone is a link to nothing"):
        take_snapshot(source)
    (source / "gone").unlink()
    (source / "loop").symlink_to(source)
    with pytest.raises(JobError, match="holds it"):
        take_snapshot(source)


def test_a_name_that_is_not_utf8_is_refused_in_words(tmp_path: Path) -> None:
    """No service could take it."""
    source = write(tmp_path / "src", {"train.py": "run"})
    Path(os.fsdecode(os.fsencode(source) + b"/\xff.py")).touch()
    with pytest.raises(JobError, match=r"\\udcff\.py has a name that isn't UTF-8"):
        take_snapshot(source)
