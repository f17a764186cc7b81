"""Images: from a run's environment to an image that the engine has, building it where it is a conda spec."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from lockstep.engine import Engine
from lockstep.workspace.environments import definition_hash, normalised
from lockstep.workspace.fault import Fault
from lockstep.workspace.state import State

BuildEnvironment = Callable[[dict[str, Any], Callable[[str], None]], str]
ImageOf = Callable[[str], str | None]


class Images:
    """Finds or makes the image of an environment.

    `build_environment(definition, on_line)` makes an image of a conda spec and returns its ID in the engine; `None`
    says that it can't. `image_of(reference)` returns the engine's ID of a registered reference
    (`host/repository@sha256:…`, an image ID), pulling it if need be, or None.
    """

    def __init__(
        self, state: State, build_environment: BuildEnvironment | None, image_of: ImageOf | None
    ) -> None:
        self._state = state
        self._build = build_environment
        self._image_of = image_of

    def needs_build(self, environment: dict[str, Any], engine: Engine) -> bool:
        """Tell whether the environment is a spec whose image isn't there yet."""
        return not _is_own_image(environment) and self._built(environment, engine) is None

    def of(self, environment: dict[str, Any], engine: Engine, on_line: Callable[[str], None]) -> str:
        """Return the ID of the environment's image in the engine; what a build says goes to `on_line`.

        Raises Fault in words when there is no such image, or the spec can't be built here.
        """
        docker = environment.get("docker") or {}
        if not _is_own_image(environment):
            return self._built(environment, engine) or self._make(environment, on_line)
        if docker.get("baseDockerfile") or docker.get("buildContext"):
            raise Fault(
                400,
                "The embedded workspace doesn't build Dockerfiles: put the image into the engine, and name it.",
            )
        reference = str(docker.get("baseImage") or "")
        found = self._image_of(reference) if self._image_of else None
        found = found or engine.image_id(reference)
        if found is None:
            remedy = "`./invoke build` makes this project's image again."
            raise Fault(
                404,
                f"The image {reference} isn't in the engine and can't be pulled. {remedy}",
                "ImageNotFound",
            )
        return found

    def _built(self, environment: dict[str, Any], engine: Engine) -> str | None:
        row = self._state.row("SELECT image FROM built WHERE definition = ?", _spec_hash(environment))
        return engine.image_id(row["image"]) if row else None

    def _make(self, environment: dict[str, Any], on_line: Callable[[str], None]) -> str:
        if self._build is None:
            raise Fault(
                400,
                "This workspace was started without a builder for conda specs: start it with `./invoke workspace`.",
            )
        image = self._build(json.loads(json.dumps(environment)), on_line)
        with self._state.change() as change:
            change.execute("INSERT OR REPLACE INTO built VALUES (?, ?)", (_spec_hash(environment), image))
        return image


def _is_own_image(environment: dict[str, Any]) -> bool:
    return bool((environment.get("python") or {}).get("userManagedDependencies"))


def _spec_hash(environment: dict[str, Any]) -> str:
    """Return the hash of what decides the image: the Python section and the base."""
    definition = normalised(environment)
    return definition_hash({key: definition[key] for key in ("python", "docker") if key in definition})
