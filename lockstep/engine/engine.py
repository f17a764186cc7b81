"""The container engine: whatever the docker SDK reaches, behind the few things that Lockstep asks of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lockstep.engine.container import Container, ContainerRun, ExitStatus, remove_container, start_container
from lockstep.engine.delivery import Delivery, Road, deliver
from lockstep.engine.endpoint import Endpoint, endpoints, open_client
from lockstep.engine.failures import engine_errors
from lockstep.engine.head_start import head_start
from lockstep.engine.install import provide_engine
from lockstep.engine.network import Network, gateway_of, private_network, remove_network
from lockstep.engine.output import OnLine
from lockstep.engine.owner import LABEL, is_gone
from lockstep.engine.shell import shell
from lockstep.engine.system import System, build_system
from lockstep.errors import EngineError, LockstepError
from lockstep.home import Home
from lockstep.progress import SILENT, Progress

if TYPE_CHECKING:
    from docker import DockerClient

    from lockstep.engine.loading import Loading
    from lockstep.image import Image, ImageLayer
    from lockstep.image.store import Store


@dataclass(frozen=True)
class EngineInfo:
    """What an engine says of itself. `data_free` is bytes, None where its disk isn't this machine's."""

    kind: str
    version: str
    address: str
    storage_driver: str
    data_root: str
    data_free: int | None
    gpus: bool
    rootless: bool


class Engine:
    """One engine that answered. Everything it raises is a LockstepError; threads may share it."""

    def __init__(self, client: DockerClient, endpoint: Endpoint) -> None:
        self.client = client
        self.endpoint = endpoint

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the engine; the engine goes on."""
        self.client.close()

    @property
    def api(self) -> Any:
        """The SDK's low-level client; half of it has no types."""
        return self.client.api

    @cached_property
    def _facts(self) -> dict[str, Any]:
        with engine_errors("telling about itself"):
            return dict(self.api.info())

    @property
    def kind(self) -> str:
        """`docker` or `podman`."""
        with engine_errors("telling about itself"):
            parts = self._version.get("Components") or []
        return "podman" if any("podman" in str(part.get("Name", "")).lower() for part in parts) else "docker"

    @cached_property
    def _version(self) -> dict[str, Any]:
        return dict(self.api.version())

    def _road(self) -> Road:
        """The road on which an image gets into this engine; see delivery.py."""
        if self.kind == "podman":
            return "whole"
        status = dict(self._facts.get("DriverStatus") or [])
        return "pull" if "containerd" in str(status.get("driver-type")) else "layers"

    @property
    def has_gpus(self) -> bool:
        """Whether containers can get GPUs: the engine knows NVIDIA's runtime or its CDI devices."""
        runtimes = self._facts.get("Runtimes") or {}
        devices = self._facts.get("DiscoveredDevices") or []
        if "nvidia" in runtimes or any("nvidia.com/gpu" in str(device.get("ID")) for device in devices):
            return True
        import shutil

        # docker's own --gpus needs no registered runtime, only NVIDIA's hook and a driver
        hook = shutil.which("nvidia-container-runtime-hook")
        return self.endpoint.socket is not None and hook is not None and Path("/dev/nvidiactl").exists()

    def info(self) -> EngineInfo:
        """Return what `doctor` shows."""
        import shutil

        facts = self._facts
        root = str(facts.get("DockerRootDir", ""))
        free = None
        if self.endpoint.socket is not None and root:
            with contextlib.suppress(OSError):
                free = shutil.disk_usage(root).free
        return EngineInfo(
            kind=self.kind,
            version=str(facts.get("ServerVersion", "")),
            address=self.endpoint.url,
            storage_driver=str(facts.get("Driver", "")),
            data_root=root,
            data_free=free,
            gpus=self.has_gpus,
            rootless=any("rootless" in str(option) for option in facts.get("SecurityOptions") or []),
        )

    def image_id(self, name: str) -> str | None:
        """Return the engine's id of the image called `name` (or with that id), or None if it has none."""
        import docker.errors

        with engine_errors(f"looking for the image {name}"):
            try:
                return str(self.api.inspect_image(name)["Id"])
            except docker.errors.NotFound:
                return None

    def image_variables(self, image: str) -> dict[str, str]:
        """Return the environment variables that an image gives its containers."""
        with engine_errors(f"looking at the image {image}"):
            said = self.api.inspect_image(image)["Config"].get("Env") or []
        return {name: value for name, _, value in (one.partition("=") for one in said)}

    def deliver(
        self,
        image: Image,
        store: Store,
        name: str,
        progress: Progress = SILENT,
        begun: Callable[[], Loading] | None = None,
    ) -> Delivery:
        """Bring `image` into the engine and call it `name` (`repository:tag`). See `delivery.deliver`."""
        return deliver(self.api, image, store, name, progress, self._road, begun)

    def head_start(
        self, store: Store, so_far: Callable[[], Sequence[ImageLayer]]
    ) -> contextlib.AbstractContextManager[Callable[[], Loading] | None]:
        """Bring layers in while later ones are being made; give the value to `deliver`. See head_start.py."""
        if self._road() != "layers":
            return contextlib.nullcontext()
        return head_start(self.api, store, so_far)

    def build_system(
        self, base: Image, store: Store, dockerfile: Path, progress: Progress = SILENT
    ) -> System:
        """Return `base` with what the Dockerfile adds to it; see `system.build_system`."""
        return build_system(self.api, base, store, dockerfile, progress, self._road)

    def start(self, run: ContainerRun) -> Container:
        """Start a container and return it at once; whoever calls this removes it."""
        return start_container(self.api, self._possible(run), has_gpus=run.gpus and self.has_gpus)

    def run(self, run: ContainerRun, on_line: OnLine) -> ExitStatus:
        """Run a container to its end, its lines going to `on_line` as they come, and remove it.

        Ctrl-C (KeyboardInterrupt) interrupts the script, kills it 2 s later and removes the container.
        """
        with self.start(run) as container:
            try:
                container.follow(on_line)
                return container.wait()
            except KeyboardInterrupt:
                container.stop()
                raise

    def shell(self, run: ContainerRun) -> int:
        """Give a prompt in a container on this terminal until it ends; return its exit code. See shell.py."""
        return shell(self.api, self._possible(run), has_gpus=run.gpus and self.has_gpus)

    def _possible(self, run: ContainerRun) -> ContainerRun:
        """Return the run without a limit of processes where the engine can't set one, and may refuse to try."""
        return run if self._facts.get("PidsLimit", True) else replace(run, processes=0)

    def private_network(self) -> contextlib.AbstractContextManager[Network]:
        """Give the containers of one run a network of their own, without a way out, until the block ends."""
        return private_network(self.api)

    def gateway(self, network: str = "bridge") -> str:
        """Return this machine's address in one of the engine's networks: there containers reach it."""
        return gateway_of(self.api, network)

    def sweep(self) -> int:
        """Remove the containers and networks of Lockstep processes that were killed; return how many."""
        swept = 0
        with engine_errors("looking for leftovers"):
            for container in self.api.containers(all=True, filters={"label": LABEL}):
                if is_gone(container["Labels"].get(LABEL, "")):
                    remove_container(self.api, container["Id"])
                    swept += 1
            for network in self.api.networks(filters={"label": LABEL}):
                if is_gone((network.get("Labels") or {}).get(LABEL, "")):
                    remove_network(self.api, network["Id"])
                    swept += 1
        return swept

    def remove_image(self, name: str) -> bool:
        """Remove a name of an image, and the image when that was its last; False if there was none."""
        import docker.errors

        with engine_errors(f"removing the image {name}"):
            try:
                self.api.remove_image(name)
            except docker.errors.NotFound:
                return False
        return True


def find_engine() -> Engine | None:
    """Return the engine that answers, or None if none does.

    Raises EngineError when one is there but may not be used, or the one that a setting names doesn't
    answer: nothing else is tried in its place.
    """
    forbidden = None
    for endpoint in endpoints():
        try:
            return _open(endpoint)
        except PermissionError:
            # a socket in a folder that may not be looked into is somebody else's affair
            if forbidden is None and endpoint.socket is not None and endpoint.socket.exists():
                forbidden = endpoint
        except ConnectionRefusedError:
            continue
    if forbidden is not None:
        raise EngineError(
            f"There is a container engine at {forbidden.url}, but you may not use it.",
            "Run `sudo adduser $USER docker` and log in again, or run this as root.",
        )
    return None


def _open(endpoint: Endpoint) -> Engine:
    """Return the engine at an endpoint; ConnectionRefusedError if none is there."""
    import docker.errors

    try:
        return Engine(open_client(endpoint), endpoint)
    except (docker.errors.DockerException, OSError, ValueError) as error:
        if endpoint.named_by:
            raise EngineError(
                f"The engine at {endpoint.url}, which {endpoint.named_by} names, doesn't answer: {error}",
                "Start it, or unset that to use this machine's own engine.",
            ) from error
        if isinstance(error, PermissionError):
            raise
        raise ConnectionRefusedError(endpoint.url) from error


def connect(*, install: bool, progress: Progress = SILENT, home: Home | None = None) -> Engine:
    """Return an engine that answers, and remove what killed Lockstep processes left in it.

    If there is none, one is installed and started where that is possible and `install` allows it; see
    install.py. Raises EngineError with exactly what to do otherwise.
    """
    engine = find_engine()
    if engine is None:
        found: list[Engine] = []

        def answers() -> bool:
            if not found and (answer := find_engine()):
                found.append(answer)
            return bool(found)

        provide_engine(home or Home.default(), answers, install=install, progress=progress)
        (engine,) = found
    with contextlib.suppress(LockstepError):
        engine.sweep()
    return engine
