"""As whom a job runs, and that what it left is given to the person and to nobody else."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

import pytest

from lockstep.engine import give, job_user, open_to_others, unreadable

root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users, which takes root")


def test_a_job_runs_as_its_person_but_never_as_root() -> None:
    """An ordinary user's as that user, root's as an id without a name, a rootless engine's as its root."""
    assert job_user((1000, 100), rootless=False) == (1000, 100)
    assert job_user((1000, 100), rootless=True) == (0, 0)
    uid, gid = job_user((0, 0), rootless=False)
    assert uid == gid != 0
    with pytest.raises(KeyError):
        pwd.getpwuid(uid)
    with pytest.raises(KeyError):
        grp.getgrgid(gid)


def test_an_id_that_somebody_has_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is; where all are taken it is `nobody`."""
    taken = {job_user((0, 0), rootless=False)[0]}

    def known(number: int) -> int:
        if number in taken or len(taken) > 1:
            return number
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", known)
    other = job_user((0, 0), rootless=False)[0]
    assert other not in taken
    taken.add(other)
    assert job_user((0, 0), rootless=False) == (65_534, 65_534)


@root
def test_what_is_given_is_the_folder_s_own(tmp_path: Path) -> None:
    """Everything in the folder, a link itself and not what it leads to; a FIFO and a closed folder don't stop it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("")
    folder = tmp_path / "left"
    (folder / "sub" / "closed").mkdir(parents=True)
    (folder / "sub" / "closed" / "file").write_text("")
    (folder / "sub" / "closed").chmod(0)
    (folder / "to file").symlink_to(outside / "file")
    (folder / "to folder").symlink_to(outside)
    (folder / "to nothing").symlink_to(tmp_path / "nothing")
    os.mkfifo(folder / "fifo")
    give(folder, (12345, 54321))
    for path in (folder, *folder.rglob("*")):
        assert (path.lstat().st_uid, path.lstat().st_gid) == (12345, 54321), path
    for path in (outside, outside / "file"):
        assert (path.stat().st_uid, path.stat().st_gid) == (0, 0)


def test_a_program_that_a_job_left_is_an_ordinary_one(tmp_path: Path) -> None:
    """Set-user-id and set-group-id are taken off files, whoever calls; a link to such a program outside stays."""
    outside, folder = tmp_path / "outside", tmp_path / "left"
    folder.mkdir()
    for path in (outside, folder / "sh"):
        path.write_bytes(b"")
        path.chmod(0o6755)
    (folder / "link").symlink_to(outside)
    give(folder, (os.getuid(), os.getgid()))
    assert stat.S_IMODE((folder / "sh").stat().st_mode) == 0o755
    assert stat.S_IMODE(outside.stat().st_mode) == 0o6755


def test_what_a_user_can_not_read_is_found_and_opened(tmp_path: Path) -> None:
    """A closed folder or file below it; opening gives others reading, and changes nothing that a link leads to."""
    me, other, outside = (os.getuid(), os.getgid()), (12345, 54321), tmp_path / "outside"
    outside.write_text("")
    outside.chmod(0o600)
    data = tmp_path / "data"
    (data / "train").mkdir(parents=True)
    (data / "train" / "a.png").write_text("")
    (data / "train" / "link").symlink_to(outside)
    (data / "train" / "a.png").chmod(0o640)
    (data / "train").chmod(0o750)
    data.chmod(0o755)
    assert unreadable(data, me) is None
    assert unreadable(data, (12345, me[1])) is None
    assert unreadable(data, other) == data / "train"
    (data / "train").chmod(0o755)
    (data / "train" / "link").unlink()
    assert unreadable(data, other) == data / "train" / "a.png"
    (data / "train" / "link").symlink_to(outside)
    open_to_others(data)
    assert stat.S_IMODE((data / "train" / "a.png").stat().st_mode) == 0o644
    assert stat.S_IMODE(outside.stat().st_mode) == 0o600
