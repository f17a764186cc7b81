"""As whom a job runs, and that what it left is given to the person and to nobody else."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

import pytest

from lockstep.engine import job_user, open_to_others, unreadable

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
