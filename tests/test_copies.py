"""Copies: what is brought out of a job's folder is bounded, and what is not says why."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lockstep import copies
from lockstep.copies import Allowance, LeftOut, copy_files
from lockstep.root import Root


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Root, Root, Path]:
    """A job's folder, where it is brought, and a folder for what is under way."""
    for name in ("job/up", "store", "work"):
        (tmp_path / name).mkdir(parents=True)
    return Root(tmp_path / "job"), Root(tmp_path / "store"), tmp_path / "work"


def test_files_are_copied_and_the_rest_is_named(folders: tuple[Root, Root, Path]) -> None:
    """Links, FIFOs, and a file where a folder is: left out with the job's own name for it."""
    job, store, work = folders
    up = job.path / "up"
    (up / "sub").mkdir()
    (up / "sub" / "a.txt").write_text("a")
    (up / "shadow").symlink_to("/etc/passwd")
    (up / "etc").symlink_to("/etc")
    os.mkfifo(up / "pipe")
    (up / "x").write_text("x")
    (store.path / "to" / "x").mkdir(parents=True)
    left_out = copy_files(job, "up", store, "to", work)
    assert [name for name, _ in store.files()] == ["to/sub/a.txt"]
    assert dict(left_out.reasons).keys() == {"up/shadow", "up/etc", "up/pipe", "up/x"}
    lines = "\n".join(left_out.lines("the upload"))
    assert "'up/shadow', a link." in lines
    assert str(job.path) not in lines
    assert str(store.path) not in lines
    assert list(work.iterdir()) == []


def test_a_disk_is_not_filled(folders: tuple[Root, Root, Path]) -> None:
    """A file of holes that says it is larger than the disk is left out; others are still brought."""
    job, store, work = folders
    with (job.path / "up" / "huge").open("wb") as file:
        file.truncate(Allowance.on(work).disk + 1)  # type: ignore[operator]
    (job.path / "up" / "small").write_text("x")
    left_out = copy_files(job, "up", store, "", work)
    assert [name for name, _ in store.files()] == ["small"]
    assert left_out.reasons[0][0] == "up/huge"
    assert ("no room" in left_out.reasons[0][1]) or ("GiB" in left_out.reasons[0][1])


def test_number_and_size_are_bounded(
    folders: tuple[Root, Root, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first ones are brought, and the log gets a few lines, not one for each."""
    job, _, _ = folders
    for number in range(100):
        (job.path / "up" / f"{number:03}").write_text("12345")
    left_out = LeftOut()
    assert len(list(copies.allowed(job, "up", Allowance(files=60), left_out))) == 60
    assert left_out.count == 40
    assert len(list(left_out.lines("it"))) == copies.SHOWN + 1
    assert len(list(copies.allowed(job, "up", Allowance(size=52), LeftOut()))) == 10
