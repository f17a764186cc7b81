"""Environments: every way to one that the service knows, as the SDK's objects."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lockstep.azureml.failures import azureml_errors, status_of
from lockstep.azureml.values import BuiltRemotely, Choice, Curated, EnvironmentVersion, OwnImage
from lockstep.errors import SpecError
from lockstep.image_name import parse_image_name

RESERVED = ("azureml", "microsoft")
"""Names that only Azure's own environments may begin with."""


def environment_name(image: str) -> str:
    """Return the name under which an image is registered: `host:5000/lockstep/env` becomes `lockstep-env`."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", parse_image_name(image).repository).strip("-.")
    return f"lockstep-{name}" if name.lower().startswith(RESERVED) or not name else name[:255]


def version_of(image: OwnImage) -> str:
    """Return the version: it carries image ID and lock hash, so the same image has the same one."""
    return f"{image.image_id.removeprefix('sha256:')[:16]}.{image.lock_hash[:16]}"


def register(workspace: Any, name: str, choice: Choice) -> tuple[Any, EnvironmentVersion]:
    """Return the SDK's environment and what the workspace has; the same one again makes no new version."""
    if isinstance(choice, Curated):
        with azureml_errors(f"looking for the environment {choice.name}"):
            return _known(_get(workspace, choice.name, choice.version))
    with azureml_errors(f"registering the environment {name}"):
        made = unregistered(name, choice)
        if isinstance(choice, OwnImage):
            there = _find(workspace, made.name, made.version)
            if there is not None and there.docker.base_image == choice.reference:
                return _known(there)
            if there is not None:  # the same image in another registry: the service counts on
                made.version = None
        return _known(made.register(workspace))


def unregistered(name: str, choice: Choice) -> Any:
    """Return the SDK's environment of a choice, without asking a workspace."""
    from azureml.core import Environment

    if isinstance(choice, Curated):
        made = Environment(choice.name)
        made.version = choice.version
        return made
    if isinstance(choice, OwnImage):
        made = Environment.from_docker_image(name, choice.reference)
        made.python.user_managed_dependencies = True
        made.python.interpreter_path = "python"
        made.version = version_of(choice)
    else:
        made = _built_remotely(f"{name}-remote", choice)
    made._environment_variables = {}  # the SDK's example variable would go into every run
    return made


def _find(workspace: Any, name: str, version: str) -> Any:
    """Return the environment of this version, or None: the SDK raises a bare Exception for 404."""
    try:
        return _get(workspace, name, version)
    except Exception as error:
        if status_of(error) != 404:
            raise
        return None


def _get(workspace: Any, name: str, version: str | None) -> Any:
    from azureml.core import Environment

    return Environment.get(workspace, name, version)


def _built_remotely(name: str, choice: BuiltRemotely) -> Any:
    from azureml.core import Environment

    read = Environment.from_pip_requirements if choice.requirements else Environment.from_conda_specification
    try:
        return read(name, str(_existing(choice.path)))
    except (ValueError, AttributeError) as error:
        raise SpecError(
            f"{choice.path} can't be read by the service's SDK: {error}", "Mend the file."
        ) from error


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise SpecError(
            f"{path} isn't there; the service was to build it.", "Mend `environment` in invoke.yaml."
        )
    return path


def _known(environment: Any) -> tuple[Any, EnvironmentVersion]:
    image = environment.docker.base_image if environment.python.user_managed_dependencies else ""
    return environment, EnvironmentVersion(environment.name, str(environment.version), image or "")
