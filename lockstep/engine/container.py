"""One container: what to run, how it goes, how it ended."""

from __future__ import annotations

import contextlib
import signal
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lockstep.engine.failures import engine_errors, in_words
from lockstep.engine.output import Lines, OnLine
from lockstep.engine.owner import LABEL, this_process
from lockstep.errors import EngineError, LockstepError

INITS = ("docker-init", "catatonit")

PROCESSES = 16_384
"""Processes and threads that a container may have: eight GPUs' loaders need 2,000, and a fork bomb ends here."""

GRACE_SECONDS = 2.0
"""How long a stopped script may take to end by itself after SIGINT, as after Ctrl-C in a terminal."""


@dataclass(frozen=True)
class Mount:
    """A file or folder of the engine's machine that the container sees at `target`."""

    source: str | Path
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class ContainerRun:
    """What to run in a container, and what it may touch. By default: no network and a read-only root.

    It has no capabilities (capabilities(7)), whoever its user is, and can't get any: training needs none.

    `image` is an image ID or a name. `user` is "uid:gid" and needs no entry in the image's passwd.
    `shm_size` and `memory` are bytes (`memory=None`: no limit), `processes` how many processes and threads it
    may have (0: no limit). `gpus` asks for all the engine has, if
    any. `network` is "none", "host" or the name of a network, in which other containers find this one
    as `hostname`. `tmpfs` are writable folders in memory; `HOME` is the first unless `environment`
    sets it.
    """

    image: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    user: str = ""
    working_dir: str = ""
    shm_size: int = 2 * 1024**3
    memory: int | None = None
    processes: int = PROCESSES
    gpus: bool = False
    network: str = "none"
    hostname: str = ""
    read_only_root: bool = True
    tmpfs: tuple[str, ...] = ("/tmp",)  # noqa: S108 - the container's own


@dataclass(frozen=True)
class ExitStatus:
    """How a container ended. `error` is the engine's own word, where it has one."""

    code: int
    oom_killed: bool = False
    error: str = ""

    @property
    def words(self) -> str:
        """The end in words: `exit code 1`, `killed: it ran out of memory`."""
        if self.oom_killed:
            return f"killed: it ran out of memory (exit code {self.code})"
        if self.code == 128 + signal.SIGKILL:
            return "killed (exit code 137): by someone, or by the machine because memory ran out"
        if self.code == 127:
            return "exit code 127: a program wasn't found, in the image or by the script"
        if self.code > 128 and self.code - 128 in set(signal.Signals):
            return f"ended by {signal.Signals(self.code - 128).name} (exit code {self.code})"
        return f"exit code {self.code}" + (f" ({self.error})" if self.error else "")


class Container:
    """A container that has been started. Its methods may be called from several threads.

    Whoever starts one removes it in the end, with `remove` or by using it as a context manager.
    """

    def __init__(self, api: Any, name: str, output: Any) -> None:
        self._api = api
        self.output = output
        self.name = name
        self.removed = False

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def follow(self, on_line: OnLine) -> None:
        """Hand each line of stdout and stderr to `on_line` as it comes, without its end, until the last."""
        import docker.utils.socket as frames

        read_frames: Any = frames.frames_iter
        streams = {1: Lines(on_line), 2: Lines(on_line)}  # stdout, stderr
        with engine_errors("reading the container's output"), contextlib.suppress(OSError):
            for number, block in read_frames(self.output, tty=False):
                streams[number].write(block)
        for stream in streams.values():
            stream.close()

    def wait(self) -> ExitStatus:
        """Wait for the end and return it. Raises EngineError when the engine goes away before."""
        with engine_errors("the container was running"):
            self._api.wait(self.name)
            state = self._api.inspect_container(self.name)["State"]
        return ExitStatus(int(state["ExitCode"]), bool(state.get("OOMKilled")), str(state.get("Error") or ""))

    @property
    def is_running(self) -> bool:
        """Whether it still runs; False as well when it has been removed."""
        import docker.errors

        with engine_errors("looking at the container"):
            try:
                return bool(self._api.inspect_container(self.name)["State"]["Running"])
            except docker.errors.NotFound:
                return False

    def stop(self, grace: float = GRACE_SECONDS) -> None:
        """Interrupt the script (SIGINT), and kill it if it hasn't ended `grace` seconds later."""
        import docker.errors

        with contextlib.suppress(LockstepError), engine_errors("stopping the container"):
            try:
                if grace > 0:
                    self._api.kill(self.name, signal="SIGINT")
                    deadline = time.monotonic() + grace
                    while self.is_running and time.monotonic() < deadline:
                        time.sleep(0.05)
                self._api.kill(self.name)
            except docker.errors.APIError as error:
                if error.status_code not in (404, 409):  # gone, or not running any more
                    raise

    def remove(self) -> bool:
        """Kill it if it runs, and remove it; tell whether it is gone. It may not be if the engine is."""
        self.removed = remove_container(self._api, self.name)  # this ends its output, and whoever follows it
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self.output._response.close()  # the SDK keeps it there: the connection is open until then
        return self.removed


def remove_container(api: Any, name: str) -> bool:
    """Remove a container by name or id, running or not, and tell whether it is gone."""
    import docker.errors

    with contextlib.suppress(LockstepError), engine_errors("removing the container"):
        with contextlib.suppress(docker.errors.NotFound):
            api.remove_container(name, force=True, v=True)
        return True
    return False


def start_container(api: Any, run: ContainerRun, *, has_gpus: bool) -> Container:
    """Create and start a container; its output is attached before, so nothing is missed.

    Raises EngineError in words when the image, a mount or the program is missing. Whatever stops this
    half-way, Ctrl-C too, leaves no container.
    """
    check_mounts(api, run)
    config = container_config(run, has_gpus=has_gpus)
    try:
        return _start_from(api, run, config)
    except EngineError as error:
        if not any(program in error.message for program in INITS):
            raise
    config["HostConfig"]["Init"] = False  # some installations of docker and Podman come without it
    return _start_from(api, run, config)


def _start_from(api: Any, run: ContainerRun, config: dict[str, Any]) -> Container:
    import docker.errors

    container = Container(api, f"lockstep-{uuid.uuid4().hex[:12]}", None)
    doing = f"starting {run.command[0] if run.command else 'the container'}"
    try:
        with engine_errors(doing):
            try:
                api.create_container_from_config(config, container.name)
                attached = {"stream": 1, "stdout": 1, "stderr": 1}
                container.output = api.attach_socket(container.name, attached)
                api.start(container.name)
            except docker.errors.APIError as error:
                raise _refused(str(error.explanation or error), run, doing) from error
    except BaseException:
        container.remove()
        raise
    return container


def _refused(told: str, run: ContainerRun, doing: str) -> LockstepError:
    """Return the error for a container that the engine doesn't start: what the image or the machine lacks."""
    if "apparmor_parser" in told:
        return EngineError(
            "The kernel has AppArmor, and the engine lacks the program that loads its profile.",
            "Run `apt-get install apparmor`, then this again.",
        )
    is_missing = "executable file not found" in told or "no such file or directory" in told
    if is_missing and not any(program in told for program in INITS):
        return EngineError(
            f"The image can't run {run.command[0] if run.command else 'its command'!r}: {told}",
            "Is it a program in the image (`./invoke image` lists its packages) and spelled right?",
        )
    if "could not select device driver" in told:
        return EngineError(
            "The engine has no driver for GPUs.", "Install the NVIDIA Container Toolkit, or run without GPUs."
        )
    return in_words(told, doing)


def check_mounts(api: Any, run: ContainerRun) -> None:
    """Raise EngineError if a mount's source is missing; an engine elsewhere finds out by itself."""
    for mount in run.mounts:
        if str(api.base_url).startswith("http+docker://local") and not Path(mount.source).exists():
            raise EngineError(
                f"{mount.source} doesn't exist; it was to be mounted at {mount.target}.",
                "Make it, or name another one.",
            )


def container_config(run: ContainerRun, *, has_gpus: bool) -> dict[str, Any]:
    """Return the body of the engine API's ContainerCreate."""
    home = run.tmpfs[0] if run.tmpfs else "/"
    environment = {"HOME": home, "USER": "lockstep", "LOGNAME": "lockstep", **run.environment}
    host: dict[str, Any] = {
        "Mounts": [
            {"Type": "bind", "Source": str(mount.source), "Target": mount.target, "ReadOnly": mount.read_only}
            for mount in run.mounts
        ],
        "NetworkMode": run.network,
        "ReadonlyRootfs": run.read_only_root,
        "ShmSize": run.shm_size,
        # exec: compilers such as torch.compile's load what they wrote to the temporary folder
        "Tmpfs": dict.fromkeys(run.tmpfs, "rw,exec,nosuid,nodev,mode=1777"),
        "Init": True,  # passes signals on and reaps what a script leaves behind
        "LogConfig": {
            "Type": "none"
        },  # the output is read as it comes; a long run must not fill the engine's disk
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
    }
    if run.processes:
        host["PidsLimit"] = run.processes
    if run.memory is not None:
        host["Memory"] = host["MemorySwap"] = run.memory
    if run.gpus and has_gpus:
        host["DeviceRequests"] = [{"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}]
    config: dict[str, Any] = {
        "Image": run.image,
        "Cmd": list(run.command),
        "Env": [f"{name}={value}" for name, value in environment.items()],
        "Labels": {LABEL: this_process()},
        "HostConfig": host,
        "AttachStdout": True,
        "AttachStderr": True,
    }
    if run.user:
        config["User"] = run.user
    if run.working_dir:
        config["WorkingDir"] = run.working_dir
    if run.hostname and run.network not in ("none", "host"):
        config["Hostname"] = run.hostname
    if run.hostname and run.network not in ("none", "host", "bridge"):  # the default bridge knows no names
        config["NetworkingConfig"] = {"EndpointsConfig": {run.network: {"Aliases": [run.hostname]}}}
    return config
