"""The image where a workspace can pull it: pushed, and proven to be this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lockstep.azureml import Workspace
from lockstep.errors import RegistryError
from lockstep.image.store import Store
from lockstep.project import Project
from lockstep.submission.workspaces import open_workspace

if TYPE_CHECKING:
    from lockstep.image import Image
    from lockstep.registry import PushResult


def push(
    project: Project, *, to: str = "", workspace: str = "", tenant: str = "", locked: bool = False
) -> PushResult:
    """Build the image and push it: to `to`, the settings' repository, or the workspace's own registry."""
    from lockstep import pipeline

    built = pipeline.build(project, locked=locked)
    repository = to or project.settings.azure.repository
    if repository:
        return _push(project, repository, built.image)
    return push_image(project, open_workspace(project, workspace, tenant), built.image)


def push_image(project: Project, service: Workspace, image: Image) -> PushResult:
    """Push to the settings' repository or the workspace's own registry; what is there isn't sent.

    The manifest is read back, and names this image's ID, or IntegrityError is raised.
    """
    repository = project.settings.azure.repository
    if not repository:
        registry = service.own_registry()
        if registry is None:
            raise RegistryError(
                f"The workspace {service.name} has no container registry: Azure makes one "
                "with the first image that it builds.",
                "Set azure.repository in invoke.yaml to one that the workspace can pull from: "
                "registry.example/team/env.",
            )
        repository = f"{registry}/{project.settings.image}"
    return _push(project, repository, image)


def _push(project: Project, repository: str, image: Image) -> PushResult:
    from lockstep.registry import push as push_blobs

    tag = image.id.removeprefix("sha256:")[:16]  # a tag of its own: nobody's else moves
    named = repository if ":" in repository.rpartition("/")[2] else f"{repository}:{tag}"
    pushed = push_blobs(image, Store(project.home), named, project.progress)
    project.progress.say(
        f"Pushed {pushed.reference}: {pushed.sent / 1e6:,.1f} MB sent, "
        f"{pushed.blobs_reused} blobs were there."
    )
    return pushed
