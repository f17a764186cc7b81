"""Run record: what was run, with which bytes, and how it ended; kept as runs/<id>/run.json.

    runs/<id>/run.json      this record, there from the start to the end, also of a run that fails
    runs/<id>/log.txt       what the script printed
    runs/<id>/source/       the source that ran
    runs/<id>/outputs/      what it left

A run that goes holds a lock on its folder, so one whose process was killed shows as lost.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

from lockstep.copies import Allowance, LeftOut, allowed
from lockstep.errors import JobError
from lockstep.root import Root
from lockstep.runs.job import OUTPUTS

SCHEMA = 1
WEIGHTS = "model.pt"
"""The output that holds the trained weights."""

_CHUNK = 1 << 20
_RECORD = "run.json"
_LOCK = ".lock"
LOG = "log.txt"
METRICS = "metrics.json"
METRICS_SIZE = 64 * 1024**2
"""Of metrics.json, in bytes: a longer one isn't read."""


@dataclass(frozen=True)
class Output:
    """A file that a run left: sha256 (hex) and size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class RunRecord:
    """What one run was. None means: not known, or not yet.

    `kind` is where it ran: `local`, `embedded` or `azureml`; `status` is `running`, `completed`,
    `failed`, `canceled` or `lost` (its process was killed). `data` has each input's fingerprint, None
    where it isn't known.
    `settings` is what the script chose and says in outputs/metrics.json: seed, threads, device, … .
    Times are UTC, ISO 8601.
    """

    id: str
    kind: str
    status: str
    command: tuple[str, ...]
    job_hash: str | None = None
    image_id: str | None = None
    lock_hash: str | None = None
    source_hash: str | None = None
    data: Mapping[str, str | None] = field(default_factory=dict)
    environment_variables: Mapping[str, str] | None = None
    nodes: int | None = None
    processes: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    outputs: Mapping[str, Output] = field(default_factory=dict)
    started: str | None = None
    ended: str | None = None
    exit_code: int | None = None
    reason: str | None = None
    remote_id: str | None = None
    portal_url: str | None = None

    @property
    def seed(self) -> int | None:
        """The seed that the script said it used."""
        seed = self.settings.get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def threads(self) -> int | None:
        """The number of threads that the script said it used."""
        threads = self.settings.get("threads")
        return threads if isinstance(threads, int) else None

    @property
    def weights(self) -> Output | None:
        """The weights that the script left."""
        return self.outputs.get(WEIGHTS)

    def changed(self, **facts: Any) -> RunRecord:
        """Return this record with other facts."""
        return dataclasses.replace(self, **facts)

    def as_json(self) -> dict[str, Any]:
        """Return run.json's content."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}


def now() -> str:
    """Return this moment in UTC, ISO 8601, to the millisecond."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def dump_record(record: RunRecord) -> str:
    """Return run.json's text."""
    return json.dumps(record.as_json(), indent=2, ensure_ascii=False) + "\n"


def write_record(record: RunRecord, folder: Path) -> None:
    """Write run.json into a run's folder, by rename: it is always whole."""
    part = folder / f".{_RECORD}.{os.getpid()}.part"
    part.write_text(dump_record(record), encoding="utf-8")
    os.replace(part, folder / _RECORD)


def read_record(folder: Path) -> RunRecord:
    """Read a run's record. Raises JobError if it can't be read or was written by a newer Lockstep."""
    path = folder / _RECORD
    remedy = f"Remove {folder} if the run is of no use any more."
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        schema = values.pop("schema")
        if schema > SCHEMA:
            raise JobError(
                f"{path} was written by a newer Lockstep (schema {schema}).", "Update this checkout."
            )
        known = {each.name for each in dataclasses.fields(RunRecord)}
        values = {name: value for name, value in values.items() if name in known}
        values["command"] = tuple(values["command"])
        values["outputs"] = {name: Output(**output) for name, output in values.get("outputs", {}).items()}
        record = RunRecord(**values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise JobError(f"{path} can't be read as a run's record: {error}.", remedy) from error
    if record.kind == "local" and record.status == "running" and not _is_held(folder):
        return record.changed(status="lost", reason="the process that ran it was killed")
    return record


@contextlib.contextmanager
def new_run(runs: Path) -> Iterator[tuple[str, Path]]:
    """Make a run's folder under `runs` and give its id and path; it is locked until the block ends.

    Ids sort by time: `20261123-001756-a1b2c3`.
    """
    runs.mkdir(parents=True, exist_ok=True)
    while True:
        run = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
        with contextlib.suppress(FileExistsError):
            (runs / run).mkdir()
            break
    with (runs / run / _LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield run, runs / run


def _is_held(folder: Path) -> bool:
    try:
        with (folder / _LOCK).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def list_runs(runs: Path) -> tuple[RunRecord, ...]:
    """Return the records under `runs`, oldest first; a folder without a readable one is left out."""
    found = []
    for folder in sorted(runs.iterdir()) if runs.is_dir() else ():
        with contextlib.suppress(JobError):
            found.append(read_record(folder))
    return tuple(found)


def find_run(runs: Path, wanted: str) -> RunRecord:
    """Return the run called `wanted`: an id, a remote id, the start or the end of one, or `last`.

    Raises JobError if there is none, or if several fit.
    """
    records = list_runs(runs)
    if wanted == "last" and records:
        return records[-1]
    exact = [record for record in records if wanted in (record.id, record.remote_id)]
    fitting = exact or [
        record for record in records if record.id.startswith(wanted) or record.id.endswith(wanted)
    ]
    if len(fitting) == 1:
        return fitting[0]
    what = f"{len(fitting)} runs fit {wanted!r}" if fitting else f"There is no run {wanted!r} in {runs}"
    raise JobError(f"{what}.", "`./invoke runs` lists them; `last` is the newest.")


def last_run_of(runs: Path, job_hash: str, *, kind: str = "local") -> RunRecord | None:
    """Return the newest completed run of a Job, or None."""
    fitting = [
        record
        for record in list_runs(runs)
        if (record.job_hash, record.kind, record.status) == (job_hash, kind, "completed")
    ]
    return fitting[-1] if fitting else None


def read_outputs(root: Root, below: str) -> tuple[dict[str, Output], dict[str, Any], LeftOut]:
    """Return the files that a script left below a folder, what its metrics.json says, and what is left out.

    The folder is the script's: links and special files aren't looked into, and what is read is bounded.
    """
    outputs, left_out = {}, LeftOut()
    for name, file, size in allowed(root, below, Allowance(), left_out):
        outputs[name.removeprefix(f"{below}/")] = _hash(file, size)
    facts: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, RecursionError), root.open(f"{below}/{METRICS}") as file:
        read = json.loads(file.read(METRICS_SIZE))
        facts = read if isinstance(read, dict) else {}
    return outputs, facts, left_out


def with_outputs(record: RunRecord, folder: Path) -> tuple[RunRecord, LeftOut]:
    """Return the record with what a run's folder of outputs holds and what the script said; and what it lacks."""
    outputs, facts, left_out = read_outputs(Root(folder), OUTPUTS)
    curves = facts.get("curves") if isinstance(facts.get("curves"), dict) else {}
    metrics = {
        name: points[-1][1]
        for name, points in (curves or {}).items()
        if isinstance(points, list) and points and isinstance(points[-1], list) and len(points[-1]) == 2
    }
    settings = {name: value for name, value in facts.items() if isinstance(value, str | int | float)}
    return record.changed(outputs=outputs, metrics=metrics, settings=settings), left_out


def _hash(file: BinaryIO, size: int) -> Output:
    """Hash a file up to the size that it had when it was opened."""
    digest, left = hashlib.sha256(), size
    while left > 0 and (chunk := file.read(min(_CHUNK, left))):
        digest.update(chunk)
        left -= len(chunk)
    return Output(digest.hexdigest(), size - left)
