"""Submission: the same Job in the same image, on the embedded workspace or on Azure ML.

The story: open the workspace, put the image where it can be pulled and prove that it is this one, register
it, send data and source, start the run, follow it, fetch what it left, write the record, compare.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lockstep.azureml import (
    BuiltRemotely,
    Choice,
    EnvironmentVersion,
    OwnImage,
    RemoteData,
    SubmittedRun,
    Workspace,
    describe,
    environment_name,
    read_curated,
)
from lockstep.image_name import parse_image_name
from lockstep.project import Project
from lockstep.runs.compare import Difference, compare_runs
from lockstep.runs.job import Job, check_source
from lockstep.runs.run import RunRecord, last_run_of, new_run, now, read_record, write_record
from lockstep.runs.snapshot import list_files, take_snapshot
from lockstep.submission.data import remote_path, send_data
from lockstep.submission.image import push_image
from lockstep.submission.runs import finish, follow_run
from lockstep.submission.sendable import check_sendable
from lockstep.submission.workspaces import get_ready, open_workspace, target_of

if TYPE_CHECKING:
    from lockstep.pipeline import Built


@dataclass(frozen=True)
class Submission:
    """What became of a submit. `left` says that Ctrl-C ended the following and the run goes on.

    `local` is the newest local run of the same Job and `differences` what the two have in common; None and
    empty where there is none, or the run hasn't ended.
    """

    record: RunRecord
    run: SubmittedRun
    left: bool = False
    local: RunRecord | None = None
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What a submit would do, as `--dry-run` shows it. `files` are path and size of the snapshot."""

    workspace: str
    experiment: str
    environment: str
    image: str
    files: tuple[tuple[str, int], ...]
    data: Mapping[str, str]
    sends: Mapping[str, Any]


def submit(
    project: Project,
    extra: tuple[str, ...] = (),
    *,
    workspace: str = "",
    tenant: str = "",
    environment: str = "",
    remote_build: bool = False,
    nodes: int | None = None,
    processes: int | None = None,
    locked: bool = False,
    wait: bool = True,
    on_line: Callable[[str], None] = print,
) -> Submission:
    """Run the project's Job on the workspace and return its record, also when the run fails.

    `extra` are arguments for the script; `nodes` and `processes` (per node) win over the settings.
    `environment` is a curated one's name, `remote_build` lets the service build the conda file or the
    requirements; else it is this project's image. Without `wait` it returns once the run is submitted.
    Ctrl-C while following leaves the run going.
    """
    from lockstep import pipeline

    job = _job(project, extra, nodes, processes)
    _check(project, job)
    wait_for_it = get_ready(project, workspace)
    service = _signed_in(project, workspace, tenant)
    built = None if environment or remote_build else pipeline.build(project, locked=locked)
    wait_for_it()
    service = service or open_workspace(project, workspace, tenant)
    choice = _choice(project, service, built, environment)
    return submit_job(project, service, job, choice, wait=wait, on_line=on_line)


def submit_job(
    project: Project,
    service: Workspace,
    job: Job,
    choice: Choice,
    *,
    wait: bool = True,
    on_line: Callable[[str], None] = print,
) -> Submission:
    """Run a Job in an environment on an open workspace: `submit` from there on."""
    version = register_choice(project, service, choice)
    inputs, fingerprints = send_data(project, service, job)
    with new_run(project.settings.runs) as (identifier, folder):
        record = _new_record(project, job, choice, service, identifier, fingerprints)
        run, record = _start(project, service, job, version, inputs, record, folder)
    project.progress.say(f"Run {run.id}: {run.portal}")
    if not wait:
        return Submission(record, run, left=True)
    return follow_submission(project, service, record, run, on_line)


def follow_submission(
    project: Project, service: Workspace, record: RunRecord, run: SubmittedRun, on_line: Callable[[str], None]
) -> Submission:
    """Show a run until it ends, fetch what it left, and compare it with the newest local run of its Job."""
    folder = project.settings.runs / record.id
    try:
        state = follow_run(project, service, run.id, folder, on_line)
    except KeyboardInterrupt:
        return Submission(record, run, left=True)
    record = finish(service, record, state, folder, on_line)
    local = last_run_of(project.settings.runs, record.job_hash) if record.job_hash else None
    return Submission(record, run, False, local, compare_runs(local, record) if local else ())


def register(
    project: Project, *, workspace: str = "", tenant: str = "", locked: bool = False
) -> EnvironmentVersion:
    """Build the image, put it where the workspace can pull it, and register it as an environment."""
    from lockstep import pipeline

    service = _signed_in(project, workspace, tenant)
    built = pipeline.build(project, locked=locked)
    service = service or open_workspace(project, workspace, tenant)
    return register_choice(project, service, _choice(project, service, built, ""))


def _signed_in(project: Project, workspace: str, tenant: str) -> Workspace | None:
    """Open an Azure ML workspace before a long build: who isn't signed in should know it then.

    None for the embedded one, which is opened after the build: this process's requests trust it alone then.
    """
    return open_workspace(project, workspace, tenant) if target_of(project, workspace) else None


def plan(
    project: Project,
    extra: tuple[str, ...] = (),
    *,
    workspace: str = "",
    environment: str = "",
    remote_build: bool = False,
    nodes: int | None = None,
    processes: int | None = None,
    locked: bool = False,
) -> Plan:
    """Return what `submit` would send. Builds the image, but asks no workspace and sends nothing."""
    from lockstep import pipeline

    settings = project.settings
    job = _job(project, extra, nodes, processes)
    files = _check(project, job)
    built = None if environment or remote_build else pipeline.build(project, locked=locked)
    target = target_of(project, workspace)
    if built is None:
        choice: Choice = read_curated(environment) if environment else _spec_choice(project)
    else:
        own = parse_image_name(settings.image).repository  # in the workspace's registry
        place = parse_image_name(settings.azure.repository).place if settings.azure.repository else own
        reference = built.delivery.image_id if target is None else f"{place}@(what the push gives)"
        choice = OwnImage(reference, built.image.id, built.lock.hash)
    job = _like_the_local_run(project, job)
    paths = {name: remote_path(project, settings.root / folder) for name, folder in job.inputs}
    inputs = {name: RemoteData("workspaceblobstore", path) for name, path in paths.items()}
    sends = describe(
        job, _name(project), choice, settings.azure.compute, inputs, _data_mode(project, target is None)
    )
    return Plan(
        workspace=target.name if target else "the embedded one",
        experiment=settings.azure.experiment,
        environment=environment or _name(project),
        image=choice.image_id if isinstance(choice, OwnImage) else "",
        files=files,
        data=paths,
        sends=sends,
    )


def _check(project: Project, job: Job) -> tuple[tuple[str, int], ...]:
    """Return path and size of the files that travel. Raises JobError if they can't."""
    files = list_files(check_source(job, project.settings.root))
    check_sendable(files, job, project.settings.root)
    return files


def _job(project: Project, extra: tuple[str, ...], nodes: int | None, processes: int | None) -> Job:
    """Return the Job that `train-local` runs, on as many nodes and processes as asked for."""
    from lockstep import pipeline

    job = pipeline.job_of(project, extra)
    return dataclasses.replace(job, nodes=nodes or job.nodes, processes=processes or job.processes)


def register_choice(project: Project, service: Workspace, choice: Choice) -> EnvironmentVersion:
    """Make the environment known to the workspace and say which it is."""
    version = service.register(_name(project), choice)
    project.progress.say(f"Environment {version.name}, version {version.version}.")
    return version


def _choice(project: Project, service: Workspace, built: Built | None, environment: str) -> Choice:
    """Return the environment; its image is where the workspace can pull it, and proven to be this one."""
    if environment:
        return read_curated(environment)
    if built is None:
        return _spec_choice(project)
    if service.kind == "embedded":  # it runs in this machine's engine, which was given this very image
        return OwnImage(built.delivery.image_id, built.image.id, built.lock.hash)
    pushed = push_image(project, service, built.image)  # reads the manifest back and compares the image ID
    return OwnImage(pushed.reference, built.image.id, built.lock.hash)


def _spec_choice(project: Project) -> BuiltRemotely:
    path = project.settings.environment_path
    return BuiltRemotely(path, requirements=path.suffix == ".txt")


def _name(project: Project) -> str:
    return environment_name(project.settings.image)


def _data_mode(project: Project, embedded: bool) -> str:
    """Return how a run gets its data; the embedded workspace has it on this disk already."""
    return "mount" if embedded else project.settings.azure.data


def _like_the_local_run(project: Project, job: Job) -> Job:
    """Return the Job with the threads that its newest local run chose: another number rounds differently."""
    local = last_run_of(project.settings.runs, job.hash)
    return job.with_threads(local.threads) if local and local.threads else job


def _new_record(
    project: Project, job: Job, choice: Choice, service: Workspace, identifier: str, data: Mapping[str, str]
) -> RunRecord:
    own = choice if isinstance(choice, OwnImage) else None
    return RunRecord(
        id=identifier,
        kind=service.kind,
        status="running",
        command=job.command,
        job_hash=job.hash,
        image_id=own.image_id if own else None,
        lock_hash=own.lock_hash if own else None,
        data=dict(data),
        environment_variables=_like_the_local_run(project, job).variables,
        nodes=job.nodes,
        processes=job.processes,
        started=now(),
    )


def _start(
    project: Project,
    service: Workspace,
    job: Job,
    version: EnvironmentVersion,
    inputs: Mapping[str, RemoteData],
    record: RunRecord,
    folder: Path,
) -> tuple[SubmittedRun, RunRecord]:
    """Send the source and start the run; its record is there from here on, also if that fails."""
    import shutil

    snapshot = take_snapshot(project.settings.root / job.source, copy_to=folder / "source")
    record = dataclasses.replace(record, source_hash=snapshot.hash)
    write_record(record, folder)
    project.progress.say(f"Source {job.source}: {len(snapshot.files)} files, {snapshot.size / 1e6:,.3f} MB.")
    azure = project.settings.azure
    tags = {
        "lockstep.run": record.id,
        "lockstep.image": record.image_id or "",
        "lockstep.lock": record.lock_hash or "",
        "lockstep.source": snapshot.hash,
        **{f"lockstep.data.{name}": fingerprint for name, fingerprint in record.data.items()},
    }
    try:
        # outside the checkout: there the SDK would send git's remote address along, credentials included
        with project.home.workspace("snapshot") as staging:
            shutil.copytree(folder / "source", staging / "source")
            run = service.submit(
                _like_the_local_run(project, job),
                version,
                staging / "source",
                experiment=azure.experiment,
                compute=azure.compute,
                inputs=inputs,
                data_mode=_data_mode(project, service.kind == "embedded"),
                tags={name: value for name, value in tags.items() if value},
            )
    except BaseException as error:
        failed = record.changed(status="failed", reason=str(error) or type(error).__name__, ended=now())
        write_record(failed, folder)
        raise
    record = record.changed(remote_id=run.id, portal_url=run.portal)
    write_record(record, folder)
    return run, read_record(folder)
