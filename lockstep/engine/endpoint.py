"""Where a container engine may answer on this machine, in the order in which it is looked for.

DOCKER_HOST                          what the person named; nothing else is tried
the current docker context           DOCKER_CONTEXT, else `docker context use`; nothing else is tried
/var/run/docker.sock                 the machine's engine
$XDG_RUNTIME_DIR/docker.sock         the person's own engine (rootless docker)
$XDG_RUNTIME_DIR/podman/podman.sock  the person's own Podman
/run/podman/podman.sock              the machine's Podman
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lockstep.errors import EngineError

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.tls import TLSConfig

ANSWER_SECONDS = 10


@dataclass(frozen=True)
class Endpoint:
    """One place to look: an engine's URL, and which setting names it (`""` when it is only a usual place)."""

    url: str
    named_by: str = ""
    tls: TLSConfig | None = None

    @property
    def socket(self) -> Path | None:
        """The path of the socket, or None for an engine that is reached over a network."""
        return Path(self.url.removeprefix("unix://")) if self.url.startswith("unix://") else None


def endpoints() -> tuple[Endpoint, ...]:
    """Return the places to look, best first. What a person named stands alone."""
    from docker.utils import kwargs_from_env

    if os.environ.get("DOCKER_HOST"):
        named = kwargs_from_env()
        return (Endpoint(named["base_url"], "DOCKER_HOST", named.get("tls")),)
    context = _context()
    return (context,) if context else tuple(_usual_places())


def _context() -> Endpoint | None:
    """Return the endpoint of the current docker context, or None for the context `default`."""
    from docker.context import ContextAPI
    from docker.context.config import get_current_context_name

    name = os.environ.get("DOCKER_CONTEXT") or get_current_context_name()
    if name == "default":
        return None
    named_by = "DOCKER_CONTEXT" if os.environ.get("DOCKER_CONTEXT") else "`docker context use`"
    try:
        context = ContextAPI.get_context(name)
    except Exception as error:  # the SDK raises bare Exception for a context file that it can't read
        raise EngineError(
            f"The docker context {name!r} can't be read: {error}",
            "See `docker context ls`, or set DOCKER_HOST.",
        ) from error
    if context is None:
        raise EngineError(
            f"There is no docker context {name!r}, which {named_by} names.",
            "See `docker context ls`; `docker context use default` goes back to the usual one.",
        )
    return Endpoint(str(context.Host), named_by, context.TLSConfig)


def _usual_places() -> Iterator[Endpoint]:
    if platform.system() == "Windows":
        yield Endpoint("npipe:////./pipe/docker_engine")
        return
    yield Endpoint("unix:///var/run/docker.sock")
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield Endpoint(f"unix://{runtime}/docker.sock")
        yield Endpoint(f"unix://{runtime}/podman/podman.sock")
    yield Endpoint("unix:///run/podman/podman.sock")


def open_client(endpoint: Endpoint) -> DockerClient:
    """Return a client of the engine at `endpoint`, after it has answered once.

    Raises OSError or `docker.errors.DockerException` when it doesn't, within 10 s. The client itself
    waits as long as an engine takes: unpacking a big layer can be silent for minutes.
    """
    from docker import DockerClient

    if endpoint.socket is not None:
        with socket.socket(socket.AF_UNIX) as probe:  # plain errors, where the SDK's hide the reason
            probe.connect(str(endpoint.socket))
    client = DockerClient(
        base_url=endpoint.url,
        tls=endpoint.tls or False,
        version="auto",
        timeout=ANSWER_SECONDS,
        max_pool_size=64,
        use_ssh_client=endpoint.url.startswith("ssh://"),
    )
    client.api.timeout = None  # type: ignore[assignment] # requests takes None for "as long as it takes"
    return client
