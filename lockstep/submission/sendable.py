"""Sendable: whether a source folder may travel. Azure ML takes 300 MB, and data doesn't belong in it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lockstep.errors import JobError
from lockstep.runs.job import Job

LIMIT_BYTES = 300 * 1024**2
"""Azure ML's own limit for a snapshot."""
LIMIT_FILES = 2_000
"""Azure ML's own limit for the files of a snapshot, unless AML_SNAPSHOT_NO_FILE_LIMIT is set."""
DATA_BYTES = 20_000_000
DATA_FILES = 500
_DATA = re.compile(
    r".*\.(bin|bmp|ckpt|csv|db|gz|h5|hdf5|jpe?g|jsonl|np[yz]|onnx|parquet|pickle|pkl|png|pth?|safetensors|tar"
    r"|tfrecord|tgz|tsv|wav|zip|zst)",
    re.IGNORECASE,
)
_SHOWN = 8


def check_sendable(files: Sequence[tuple[str, int]], job: Job, root: Path) -> None:
    """Refuse a snapshot (path and size of each file) that is too large or has data in it.

    Raises JobError that shows the biggest files, as the tutorial warns: move the data out of the source.
    """
    size = sum(bytes_ for _, bytes_ in files)
    source = (root / job.source).resolve()
    for name, folder in job.inputs:
        where = (root / folder).resolve()
        if where.is_relative_to(source):
            inside = where.relative_to(source).as_posix()
            if inside == "." or any(path.startswith(f"{inside}/") for path, _ in files):
                raise _refused(f"the job's input {name!r} ({folder}) lies in it", files, job)
    if size > LIMIT_BYTES:
        limit = LIMIT_BYTES / 1024**2
        raise _refused(f"it has {size / 1024**2:,.0f} MB and Azure ML takes {limit:,.0f} MB", files, job)
    if len(files) > LIMIT_FILES and not os.environ.get("AML_SNAPSHOT_NO_FILE_LIMIT"):
        raise _refused(f"it has {len(files):,} files and Azure ML takes {LIMIT_FILES:,}", files, job)
    data = [(path, bytes_) for path, bytes_ in files if _DATA.fullmatch(path)]
    if sum(bytes_ for _, bytes_ in data) > DATA_BYTES or len(data) > DATA_FILES:
        amount = sum(bytes_ for _, bytes_ in data) / 1e6
        raise _refused(f"there is data in it: {len(data):,} files of {amount:,.1f} MB", data, job)


def _refused(why: str, files: Sequence[tuple[str, int]], job: Job) -> JobError:
    return JobError(
        f"The source folder {job.source} can't be sent: {why}.\n{show(biggest(files))}",
        f"Move the data out of {job.source} (`./invoke data` keeps it under data/), or list it in "
        f"{job.source}/.amlignore.",
    )


def biggest(files: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return the biggest files and folders, each with its whole size, the biggest first."""
    sizes: dict[str, int] = {}
    for path, bytes_ in files:
        top, slash, _ = path.partition("/")
        sizes[top + slash] = sizes.get(top + slash, 0) + bytes_
    return sorted(sizes.items(), key=lambda each: (-each[1], each[0]))[:_SHOWN]


def show(files: Iterable[tuple[str, int]]) -> str:
    """Return a line for each file with its size."""
    return "\n".join(f"  {bytes_ / 1e6:10,.3f} MB  {path}" for path, bytes_ in files)
