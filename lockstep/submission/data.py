"""Remote data: folders of data in the workspace's default datastore, named by their content."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lockstep.azureml import RemoteData, Workspace
from lockstep.azureml.data import COMPLETE
from lockstep.datasets import fingerprint
from lockstep.errors import JobError
from lockstep.home import disk_full_in_words
from lockstep.project import Project
from lockstep.runs.job import Job
from lockstep.submission.workspaces import open_workspace
from lockstep.workspace.folder import Folder

DATASTORE = "workspaceblobstore"
"""What every workspace calls its default datastore."""
ROOT = "lockstep/data"
"""Everything that a project puts into a datastore lies below this."""


def remote_path(project: Project, folder: Path) -> str:
    """Return where in the datastore a folder goes: by name and content, so it is there once."""
    found = fingerprint(folder, project.home).removeprefix("sha256:")
    return f"{ROOT}/{folder.name}-{found[:16]}"


def upload(project: Project, folder: Path, *, workspace: str = "", tenant: str = "") -> RemoteData:
    """Put a folder into the workspace's default datastore; one that is there already isn't sent again."""
    return _send(project, open_workspace(project, workspace, tenant), folder)


def _send(project: Project, service: Workspace, folder: Path) -> RemoteData:
    """Put a folder where the workspace's runs find it, and say so if it wasn't there."""
    path = remote_path(project, folder)
    embedded = service.kind == "embedded"
    sent = _copy(project, folder, path) if embedded else service.upload(folder, path, project.progress)
    if sent.bytes_sent:
        project.progress.say(
            f"Data {folder.name}: {sent.files:,} files, {sent.bytes_sent / 1e6:,.1f} MB sent."
        )
    return sent


def _copy(project: Project, folder: Path, path: str) -> RemoteData:
    """Copy a folder to where the embedded workspace keeps blobs, by rename at the end.

    It is this disk: 60,000 images through the SDK, a request each, would take minutes and prove nothing.
    """
    target = _datastore(project) / path
    if target.is_dir():
        return RemoteData(DATASTORE, path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    counts = [0, 0]

    def copy(source: str, to: str) -> str:
        counts[0] += 1
        counts[1] += os.path.getsize(source)
        task.advance()
        return str(shutil.copyfile(source, to))

    try:
        with (
            disk_full_in_words(target.parent),
            project.progress.task(f"Copying {folder.name}", unit="files") as task,
        ):
            shutil.copytree(folder, part, copy_function=copy)
            with contextlib.suppress(FileExistsError, OSError):  # another submit was first
                part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return RemoteData(DATASTORE, path, *counts)


def _datastore(project: Project) -> Path:
    return Folder(project.state / "workspace").datastore(DATASTORE).path


def send_data(
    project: Project, service: Workspace, job: Job
) -> tuple[Mapping[str, RemoteData], Mapping[str, str]]:
    """Put each input of a Job where its run finds it; return the places, and the fingerprints, by input."""
    places, fingerprints = {}, {}
    for name, folder in job.inputs:
        path = project.settings.root / folder
        if not path.is_dir():
            raise JobError(
                f"The job's input {name} is {path}, which isn't a folder.", "`./invoke data` makes a dataset."
            )
        fingerprints[name] = fingerprint(path, project.home)
        places[name] = _send(project, service, path)
    return places, fingerprints


@dataclass(frozen=True)
class Leftovers:
    """What this project made in a workspace and `clean` can remove: folders of data, with files and bytes.

    `kept` says what stays, because the service keeps it for ever: runs and environments.
    """

    folders: tuple[tuple[str, int, int], ...]
    blobs: tuple[str, ...]
    kept: tuple[str, ...]


def leftovers(service: Workspace, experiment: str) -> Leftovers:
    """Return what is there to remove. Removes nothing."""
    found: dict[str, tuple[int, int]] = {}
    blobs = service.uploads(f"{ROOT}/")
    for path, size in blobs:
        folder = "/".join(path.split("/")[: ROOT.count("/") + 2]).removesuffix(COMPLETE)
        files, total = found.get(folder, (0, 0))
        found[folder] = files + 1, total + size
    runs = service.runs(experiment)
    kept = (f"{len(runs)} runs of the experiment {experiment!r}",) if runs else ()
    folders = tuple((folder, *counts) for folder, counts in sorted(found.items()))
    return Leftovers(folders, tuple(path for path, _ in blobs), kept)


def clean_remote(project: Project, *, yes: bool = False, workspace: str = "", tenant: str = "") -> Leftovers:
    """Return what this project made in the workspace, and remove it only if `yes`."""
    service = open_workspace(project, workspace, tenant)
    found = leftovers(service, project.settings.azure.experiment)
    if yes and service.kind == "embedded":
        shutil.rmtree(_datastore(project) / ROOT, ignore_errors=True)
    elif yes:
        service.remove_uploads(found.blobs)
    return found
