"""The image where a workspace can pull it: pushed, and proven to be this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lockstep.azureml import Workspace
from lockstep.damage import repaired
from lockstep.errors import IntegrityError, RegistryError
from lockstep.image.store import Store
from lockstep.image_name import ImageName, parse_image_name, parse_repository
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

    repository = to or project.settings.azure.repository
    named = parse_repository(repository) if repository else None
    built = pipeline.build(project, locked=locked)
    if named:
        return _push(project, named, built.image)
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
        repository = f"{registry}/{parse_image_name(project.settings.image).repository}"
    return _push(project, parse_repository(repository), image)


def _push(project: Project, named: ImageName, image: Image) -> PushResult:
    from lockstep.registry import push as push_blobs

    tag = named.tag or image.id.removeprefix("sha256:")[:16]  # a tag of its own: nobody's else moves
    store = Store(project.home)

    def once() -> PushResult:
        if not all(store.has(layer.digest, layer.size) for layer in image.layers):
            _make_again(project, image)
        return push_blobs(image, store, f"{named.place}:{tag}", project.progress)

    pushed = repaired(once, project.progress)
    project.progress.say(
        f"Pushed {pushed.reference}: {pushed.sent / 1e6:,.1f} MB sent, "
        f"{pushed.blobs_reused} blobs were there."
    )
    return pushed


def _make_again(project: Project, image: Image) -> None:
    """Build once more, for the layers that were put aside because they were damaged."""
    from lockstep import pipeline

    if (found := pipeline.build(project).image.id) != image.id:
        raise IntegrityError(
            f"Expected to make {image.id} again, found {found}: docker/Dockerfile gives another result today.",
            "Run the same command again: it takes the new image.",
        )
