"""What may travel as a snapshot, and what is refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from lockstep.errors import JobError
from lockstep.runs.job import Job
from lockstep.submission.sendable import LIMIT_BYTES, LIMIT_FILES, check_sendable


def refused(files: list[tuple[str, int]], root: Path, job: Job | None = None) -> str:
    """Return the words of the refusal."""
    with pytest.raises(JobError) as caught:
        check_sendable(files, job or Job(), root)
    return str(caught.value)


def test_source_is_sent(tmp_path: Path) -> None:
    """Scripts and a few small images are a source folder."""
    check_sendable([("train.py", 9000), ("logo.png", 40_000)], Job(), tmp_path)


def test_too_large_shows_the_biggest(tmp_path: Path) -> None:
    """Over 300 MB is refused; the biggest folder comes first in the list."""
    told = refused([("train.py", 9000), ("blob/x", LIMIT_BYTES), ("small/y", 5)], tmp_path)
    assert "300 MB" in told
    assert told.index("blob/") < told.index("train.py")
    assert ".amlignore" in told


def test_data_is_refused(tmp_path: Path) -> None:
    """A folder of images is data, whatever it is called."""
    told = refused([("train.py", 9), *((f"stuff/{i}.PNG", 100) for i in range(600))], tmp_path)
    assert "600 files" in told
    assert "stuff/" in told


def test_input_inside_the_source_is_refused(tmp_path: Path) -> None:
    """The job's own data inside the source would travel twice; ignored by .amlignore, it may lie there."""
    job = Job(inputs=(("data", "src/data"),))
    assert "input 'data'" in refused([("data/a.txt", 3)], tmp_path, job)
    check_sendable([("train.py", 3)], job, tmp_path)


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Azure ML's own limit of files is said before the upload; its own variable lifts it."""
    files = [(f"m{i}.py", 1) for i in range(LIMIT_FILES + 1)]
    monkeypatch.delenv("AML_SNAPSHOT_NO_FILE_LIMIT", raising=False)
    assert "2,000" in refused(files, tmp_path)
    monkeypatch.setenv("AML_SNAPSHOT_NO_FILE_LIMIT", "1")
    check_sendable(files, Job(), tmp_path)
