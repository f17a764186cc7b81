"""The daemon: start, find, stop and reset the workspace's server, and point the SDK at it. The client's side."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import ssl
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lockstep.errors import WorkspaceError
from lockstep.no_proxy import no_proxy
from lockstep.removal import remove_tree

START_SECONDS = 20.0
STOP_SECONDS = 15.0


@dataclass(frozen=True)
class Daemon:
    """A server that runs: where its state is, its process and its ports."""

    folder: Path
    pid: int
    port: int
    studio_port: int

    @property
    def url(self) -> str:
        """The address that the SDK talks to."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def _probe(self) -> str:
        return f"{self.url}/metadata/endpoints"

    @property
    def studio(self) -> str:
        """The address of MLflow's pages, with the secret that lets its owner in."""
        from lockstep.workspace.identity import Identity

        secret = Identity.of(self.folder / "identity.json").secret("studio")
        return f"http://127.0.0.1:{self.studio_port}/studio/{secret}"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def environment(self) -> dict[str, str]:
        """Return the environment variables that make azureml-core and azureml-mlflow talk to this server.

        NO_PROXY keeps a proxy out of it, and says what it says in this process besides.
        `AZURE_CONFIG_DIR` names a folder that isn't there, or the SDK would remember addresses in it for ever.
        """
        from lockstep.workspace.identity import CLOUD, Identity

        secret = Identity.of(self.folder / "identity.json").secret("sign-in")
        bundle = str(self.folder / "tls" / "ca-bundle.pem")
        return {
            "ARM_CLOUD_METADATA_URL": f"{self.url}/metadata/endpoints?api-version=2019-05-01",
            "AZUREML_CURRENT_CLOUD": CLOUD,
            "MSI_ENDPOINT": f"{self.url}/MSI/{secret}/token",
            "AZURE_CONFIG_DIR": str(self.folder / f"azure-{self.port}"),
            "REQUESTS_CA_BUNDLE": bundle,
            "SSL_CERT_FILE": bundle,
            **no_proxy(os.environ),
        }

    def answers(self) -> bool:
        """Tell whether the server answers."""
        context = ssl.create_default_context(cafile=str(self.folder / "tls" / "ca.pem"))
        secure, direct = urllib.request.HTTPSHandler(context=context), urllib.request.ProxyHandler({})
        try:
            with urllib.request.build_opener(secure, direct).open(self._probe, timeout=2):
                return True
        except OSError:
            return False

    def stop(self) -> None:
        """End the server: its runs are Failed with the reason, MLflow ends with it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return
            deadline = time.monotonic() + STOP_SECONDS
            while time.monotonic() < deadline:
                if not is_served(self.folder):
                    with contextlib.suppress(OSError):
                        os.waitpid(self.pid, 0)  # our own child would stay as a zombie
                    return
                time.sleep(0.05)


def config() -> dict[str, str]:
    """Return what `.azureml/config.json` holds for `Workspace.from_config()`; it is the same for ever."""
    from lockstep.workspace.identity import NAME, RESOURCE_GROUP, SUBSCRIPTION

    return {"subscription_id": SUBSCRIPTION, "resource_group": RESOURCE_GROUP, "workspace_name": NAME}


def is_served(folder: Path) -> bool:
    """Tell whether a process serves this folder: it holds the lock for as long as it lives."""
    try:
        with (folder / "server.lock").open("r") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def find(folder: Path) -> Daemon | None:
    """Return the server of this folder if one runs and has noted its ports."""
    if not is_served(folder):
        return None
    try:
        noted = json.loads((folder / "server.json").read_text())
        found = Daemon(folder, int(noted["pid"]), int(noted["port"]), int(noted["studio_port"]))
        os.kill(found.pid, 0)
    except (OSError, ValueError, KeyError):
        return None
    return found


def start(
    folder: Path, command: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ
) -> Daemon:
    """Return the server of this folder; start it, detached, if none runs, and wait for its first answer.

    `command` is what to run, by default `python -m lockstep.workspace FOLDER`, in `environment`. Raises
    WorkspaceError with the end of its output when it doesn't start.
    """
    running = find(folder)
    if running is not None and running.answers():
        return running
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    output = folder / "server.out"
    command = list(command or (sys.executable, "-m", "lockstep.workspace", str(folder)))
    process = _detached(command, output, environment)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        running = find(folder)
        if running is not None and running.answers():
            return running
        if os.waitpid(process, os.WNOHANG)[0] == process:
            break
        time.sleep(0.02)
    told = output.read_text(errors="replace").strip().splitlines()[-10:]
    raise WorkspaceError(
        "The embedded workspace didn't start:\n" + ("\n".join(told) or "it said nothing."),
        f"Its log is {folder / 'server.log'}. `./invoke workspace --reset` begins anew.",
    )


def _detached(command: list[str], output: Path, environment: Mapping[str, str]) -> int:
    """Start a program in a session of its own, its output in a file; return its process id."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(output), flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(command[0], command, environment, file_actions=files, setsid=True)


def reset(folder: Path) -> None:
    """Stop the server and remove everything that it keeps."""
    running = find(folder)
    if running is not None:
        running.stop()
    if is_served(folder):
        raise WorkspaceError(
            f"The workspace in {folder} is still being served.", "Stop that process, then reset again."
        )
    remove_tree(folder)
