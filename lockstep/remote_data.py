"""Remote data: folders of data in the workspace's default datastore, named by their content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lockstep.azureml import RemoteData, Workspace
from lockstep.datasets import fingerprint
from lockstep.errors import JobError
from lockstep.job import Job
from lockstep.project import Project
from lockstep.workspaces import open_workspace

ROOT = "lockstep/data"
"""Everything that a project puts into a datastore lies below this."""


def remote_path(project: Project, folder: Path) -> str:
    """Return where in the datastore a folder goes: by name and content, so it is there once."""
    found = fingerprint(folder, project.home).removeprefix("sha256:")
    return f"{ROOT}/{folder.name}-{found[:16]}"


def upload(project: Project, folder: Path, *, workspace: str = "", tenant: str = "") -> RemoteData:
    """Put a folder into the workspace's default datastore; one that is there already isn't sent again."""
    service = open_workspace(project, workspace, tenant)
    return service.upload(folder, remote_path(project, folder), project.progress)


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
        places[name] = service.upload(path, remote_path(project, path), project.progress)
        if places[name].bytes_sent:
            project.progress.say(
                f"Data {folder}: {places[name].files:,} files, {places[name].bytes_sent / 1e6:,.1f} MB sent."
            )
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
        folder = "/".join(path.split("/")[:3])
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
    if yes:
        service.remove_uploads(found.blobs)
    return found
