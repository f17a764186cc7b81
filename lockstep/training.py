"""Train here: the Job in a container of the image, and the record of it.

The container sees the source at /job/source (its working directory, read-only), each input at
/job/inputs/<name> (read-only) and writes to /job/source/outputs, which is runs/<id>/outputs here. It
runs as the person who called, or as nobody where that is root; in the end the person owns what it leaves.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from lockstep.datasets.fingerprint import fingerprint
from lockstep.engine import ContainerRun, Engine, ExitStatus, Mount, give, job_user, unreadable
from lockstep.errors import JobError, LockstepError
from lockstep.home import Home, disk_full_in_words
from lockstep.runs.job import OUTPUTS, Job, check_source
from lockstep.runs.run import RunRecord, new_run, now, with_outputs, write_record
from lockstep.runs.snapshot import take_snapshot

SOURCE = "/job/source"
INPUTS = "/job/inputs"
_PORT = "29500"  # torch.distributed's own default; the container has its loopback to itself


def train_local(
    job: Job,
    *,
    image_id: str,
    lock_hash: str | None,
    engine: Engine,
    engine_image: str | None = None,
    root: Path,
    runs: Path,
    home: Home,
    on_line: Callable[[bytes], None],
) -> RunRecord:
    """Run `job` in the image and return its record, also when the script fails.

    `engine_image` is what this engine calls the image, where that isn't the image ID (docker's containerd
    store). `root` is the folder that the Job's paths are relative to; `on_line` gets each line of output as it
    comes, without its end; runs/<id>/log.txt keeps them. Raises JobError before anything runs if the
    script, the data or the image is missing. Ctrl-C and SIGTERM stop the container, write the record
    and raise KeyboardInterrupt.
    """
    source = check_source(job, root)
    inputs = {name: _input_folder(name, root / folder) for name, folder in job.inputs}
    engine_image = engine_image or image_id
    if engine.image_id(engine_image) is None:
        raise JobError(f"The engine has no image {image_id}.", "Run `./invoke build`.")
    caller = _caller()
    user = job_user(caller, rootless=engine.info().rootless)
    if user[0] and user != caller:
        _check_readable(inputs, user)
    with disk_full_in_words(_existing(runs)), new_run(runs) as (name, folder), _stoppable():
        _give(caller, runs, folder)
        record = RunRecord(
            id=name,
            kind="local",
            status="running",
            command=job.command,
            job_hash=job.hash,
            image_id=image_id,
            lock_hash=lock_hash,
            environment_variables=job.variables,
            nodes=job.nodes,
            processes=job.processes,
            started=now(),
        )
        data: dict[str, str] = {}
        try:
            snapshot = take_snapshot(source, copy_to=folder / "source")
            record = record.changed(source_hash=snapshot.hash)
            write_record(record, folder)
            with contextlib.suppress(FileExistsError):
                (folder / "source" / OUTPUTS).mkdir()  # the root is read-only: a mount needs its folder
            (folder / OUTPUTS).mkdir()
            give(folder / "source", user)
            give(folder / OUTPUTS, user)
            reader = threading.Thread(target=_fingerprints, args=(inputs, home, data), daemon=True)
            reader.start()  # which data it is gets found out while the training goes
            status = _run(job, engine_image, engine, folder, inputs, user, on_line)
            reader.join()
            record = record.changed(
                status="failed" if status.code else "completed",
                exit_code=status.code,
                reason=reason(status) if status.code else None,
            )
        except KeyboardInterrupt:
            record = record.changed(
                status="canceled", exit_code=128 + signal.SIGINT, reason="stopped by Ctrl-C or SIGTERM"
            )
            raise
        except BaseException as error:
            told = error.message if isinstance(error, LockstepError) else str(error) or type(error).__name__
            record = record.changed(status="failed", reason=told)
            raise
        finally:
            record = with_outputs(record.changed(ended=now(), data=dict(data)), folder / OUTPUTS)
            write_record(record, folder)
            give(folder, caller)
        return record


def command_line(job: Job, folders: Mapping[str, str]) -> tuple[str, ...]:
    """Return what to run in one container: the script, under torch's launcher if there are several processes.

    All processes of all nodes run here, so that the training is the same one.
    """
    script = (job.script, *map(str, job.arguments_with(folders)))
    if job.world_size == 1:
        return ("python", *script)
    launcher = ("python", "-m", "torch.distributed.run", "--nproc-per-node", str(job.world_size))
    return (*launcher, "--master-addr", "127.0.0.1", "--master-port", _PORT, *script)


def shell_container(image_id: str, source: Path, data: Path, command: tuple[str, ...]) -> ContainerRun:
    """Return a container to look around in: the source writable at its place, the data beside it."""
    mounts = [Mount(source, SOURCE)]
    if data.is_dir():
        mounts.append(Mount(data, INPUTS, read_only=True))
    uid, gid = _caller()
    return ContainerRun(
        image=image_id,
        command=command,
        mounts=tuple(mounts),
        user=f"{uid}:{gid}",
        working_dir=SOURCE,
        gpus=True,
        network="bridge",
    )


def reason(status: ExitStatus) -> str:
    """Return why a run failed, in words, with what may help."""
    if status.oom_killed or status.code == 128 + signal.SIGKILL:
        return f"{status.words}; a smaller --batch-size or a machine with more memory may help"
    return status.words


def _run(
    job: Job,
    image: str,
    engine: Engine,
    folder: Path,
    inputs: Mapping[str, Path],
    user: tuple[int, int],
    on_line: Callable[[bytes], None],
) -> ExitStatus:
    targets = {name: f"{INPUTS}/{name}" for name in inputs}
    # torch warns for each connection that a container without a network has no host name to look up
    quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR"} if job.world_size > 1 else {}
    container = ContainerRun(
        image=image,
        command=command_line(job, targets),
        environment={"PYTHONUNBUFFERED": "1", **quiet, **job.variables},
        mounts=(
            Mount(folder / "source", SOURCE, read_only=True),
            Mount(folder / OUTPUTS, f"{SOURCE}/{OUTPUTS}"),
            *(Mount(path, targets[name], read_only=True) for name, path in inputs.items()),
        ),
        user=f"{user[0]}:{user[1]}",
        working_dir=SOURCE,
        shm_size=job.shm_bytes,
        gpus=True,
        network="bridge" if job.network else "none",
    )
    with (folder / "log.txt").open("wb") as log:

        def keep(line: bytes) -> None:
            log.write(line + b"\n")
            log.flush()
            on_line(line)

        return engine.run(container, keep)


def _input_folder(name: str, folder: Path) -> Path:
    if not folder.is_dir():
        raise JobError(
            f"The job's input {name} is {folder}, which isn't a folder.",
            "`./invoke data` makes a dataset; `--source PATH` takes yours.",
        )
    return folder.resolve()


def _check_readable(inputs: Mapping[str, Path], user: tuple[int, int]) -> None:
    """Raise JobError if root's job can't read an input."""
    for name, folder in inputs.items():
        if path := unreadable(folder, user):
            raise JobError(
                f"The job can't read its input {name}: {path} is closed to others, and a job of root's doesn't run "
                "as root.",
                f"`chmod -R a+rX {folder}` opens it.",
            )


def _caller() -> tuple[int, int]:
    """Return uid and gid of the person who called, whom sudo names."""
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdecimal():
        return int(os.environ["SUDO_UID"]), int(os.environ.get("SUDO_GID", os.environ["SUDO_UID"]))
    return os.getuid(), os.getgid()


def _give(owner: tuple[int, int], *paths: Path) -> None:
    """Make paths those of the person who called sudo."""
    if os.geteuid() == 0 and owner[0] != 0:
        for path in paths:
            os.chown(path, *owner, follow_symlinks=False)


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _fingerprints(inputs: Mapping[str, Path], home: Home, found: dict[str, str]) -> None:
    """Add each input's fingerprint to `found`; one that can't be read stays unknown."""
    for name, folder in inputs.items():
        with contextlib.suppress(LockstepError, OSError):
            found[name] = fingerprint(folder, home)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does: with the container stopped and a record."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, interrupt) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
