"""Train here: the Job in a container of the image, and the record of it.

The container sees the source at /job/source (its working directory, read-only), each input at
/job/inputs/<name> (read-only) and writes to /job/source/outputs, which is runs/<id>/outputs here. It
runs as the person who called, or as nobody where that is root; in the end the person owns what it leaves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from lockstep.datasets.fingerprint import fingerprint
from lockstep.engine import ContainerRun, Engine, ExitStatus, Mount, job_user, unreadable
from lockstep.errors import JobError, LockstepError
from lockstep.home import Home, disk_full_in_words
from lockstep.root import Root
from lockstep.runs.job import OUTPUTS, Job, check_source
from lockstep.runs.run import LOG, RunRecord, new_run, now, with_outputs, write_record
from lockstep.runs.run_log import RunLog
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
    with (
        disk_full_in_words(_existing(runs)),
        new_run(runs) as (name, folder),
        contextlib.closing(RunLog(Root(folder), LOG)) as log,
        _stoppable(),
    ):

        def show(line: bytes) -> None:
            log.line(line)
            on_line(line)

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
            data=dict.fromkeys(inputs),
            started=now(),
        )
        data: dict[str, str | None] = dict.fromkeys(inputs)
        try:
            snapshot = take_snapshot(source, copy_to=folder / "source")
            record = record.changed(source_hash=snapshot.hash)
            write_record(record, folder)
            with contextlib.suppress(FileExistsError):
                (folder / "source" / OUTPUTS).mkdir()  # the root is read-only: a mount needs its folder
            (folder / OUTPUTS).mkdir()
            Root(folder).give(*user, below="source")
            Root(folder).give(*user, below=OUTPUTS)
            reader = threading.Thread(target=_fingerprints, args=(inputs, home, data), daemon=True)
            reader.start()  # which data it is gets found out while the training goes
            status = _run(job, engine_image, engine, folder, inputs, user, show)
            if log.broken:
                raise log.broken
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
            record, left_out = with_outputs(record.changed(ended=now(), data=dict(data)), folder)
            for line in left_out.lines("the record"):
                show(line.encode())
            write_record(record, folder)
            _give(caller, runs, folder)
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


def shell_container(
    job: Job, image: str, engine: Engine, root: Path, command: tuple[str, ...]
) -> ContainerRun:
    """Return a container to look around in: what a run of `job` has, where a run has it.

    It differs in that it runs as the person, the source is the folder itself, writable, and there is a
    network. `root` is the folder that the Job's paths are relative to.
    """
    inputs = {name: _input_folder(name, root / folder) for name, folder in job.inputs}
    user = (0, 0) if engine.info().rootless else _caller()  # whoever types here is the person
    run = _container(job, image, user, (Mount(root / job.source, SOURCE),), inputs)
    return dataclasses.replace(run, command=command, network="bridge")


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
    mounts = (
        Mount(folder / "source", SOURCE, read_only=True),
        Mount(folder / OUTPUTS, f"{SOURCE}/{OUTPUTS}"),
    )
    container = _container(job, image, user, mounts, inputs)
    return engine.run(container, on_line)


def _container(
    job: Job, image: str, user: tuple[int, int], mounts: tuple[Mount, ...], inputs: Mapping[str, Path]
) -> ContainerRun:
    """Return the container of a run of `job`; `mounts` are its source and where its outputs go."""
    targets = {name: f"{INPUTS}/{name}" for name in inputs}
    # torch warns for each connection that a container without a network has no host name to look up
    quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR"} if job.world_size > 1 else {}
    return ContainerRun(
        image=image,
        command=command_line(job, targets),
        environment={"PYTHONUNBUFFERED": "1", **quiet, **job.variables},
        mounts=(*mounts, *(Mount(path, targets[name], read_only=True) for name, path in inputs.items())),
        user=f"{user[0]}:{user[1]}",
        working_dir=SOURCE,
        shm_size=job.shm_bytes,
        gpus=True,
        network="bridge" if job.network else "none",
    )


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


def _give(owner: tuple[int, int], runs: Path, folder: Path) -> None:
    """Make a run's folder with all in it the caller's, and `runs` too where that is the person whom sudo names."""
    if os.geteuid() == 0 and owner[0] != 0:
        os.chown(runs, *owner, follow_symlinks=False)
    Root(folder).give(*owner)


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _fingerprints(inputs: Mapping[str, Path], home: Home, found: dict[str, str | None]) -> None:
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
