"""Workspaces: the one that a command uses, opened. The embedded one is started if it doesn't run."""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from lockstep.azureml import Target, Workspace, connect, find_target, point_sdk_at
from lockstep.project import Project
from lockstep.submission.embedded import start_embedded

if TYPE_CHECKING:
    from lockstep.workspace.daemon import Daemon

_UNDER_THE_SDK = ("requests", "msrest", "docker", "paramiko", "azure.core", "azure.mgmt.core", "msal")
"""What azureml-core imports that reads no address of a workspace: two thirds of its import time."""
_TOLD = "told-sdk-v1"
_OUT_OF_SUPPORT = (
    "Azure ML's SDK v1 (azureml-core), which this uses, is out of Microsoft's support since 30 June 2026; "
    "the service goes on accepting it."
)


def target_of(project: Project, workspace: str = "") -> Target | None:
    """Return the Azure ML workspace that flag, settings or config.json name; None is the embedded one."""
    from lockstep.workspace.daemon import config

    found = find_target(project.settings.root, project.settings.azure, workspace)
    own = config()  # what `invoke workspace` prints for the tutorial's script: that's the embedded one too
    embedded = (own["subscription_id"], own["resource_group"], own["workspace_name"])
    return None if found and (found.subscription, found.resource_group, found.name) == embedded else found


def open_workspace(project: Project, workspace: str = "", tenant: str = "") -> Workspace:
    """Sign in to the workspace and return it; which one it is gets said in a line.

    `workspace` is `embedded`, a name, SUBSCRIPTION/GROUP/NAME or a config.json; "" means settings, then
    .azureml/config.json, then the embedded one. Raises WorkspaceError in words.
    """
    target = target_of(project, workspace)
    if target is None:
        return _open_embedded(project, asked_for=bool(workspace))
    project.progress.say(f"Workspace {target.name} ({target.found_in}).")
    _tell_once(project)
    tenant = tenant or project.settings.azure.tenant
    return connect(target, tenant=tenant, progress=project.progress)


def get_ready(project: Project, workspace: str = "") -> Callable[[], None]:
    """Begin in the background what opening the embedded workspace takes; the returned function waits for it.

    The server's start and most of the SDK's import need nothing of the build that goes on meanwhile. What
    fails here fails again, in words, when the workspace is opened.
    """
    if target_of(project, workspace) is not None:
        return lambda: None
    environment = dict(os.environ)  # as it is now: a solve changes it for moments

    def begin() -> None:
        with contextlib.suppress(Exception):
            start_embedded(project, environment)
            for name in _UNDER_THE_SDK:
                importlib.import_module(name)

    thread = threading.Thread(target=begin, daemon=True)
    thread.start()
    return thread.join


def _open_embedded(project: Project, *, asked_for: bool) -> Workspace:
    from lockstep.workspace.daemon import config

    if not asked_for:
        project.progress.say("No Azure ML workspace is configured: using the embedded one, on this machine.")
    running = start_embedded(project)
    point_sdk_at(_for_this_process(running))
    own = config()
    target = Target(own["workspace_name"], own["subscription_id"], own["resource_group"], "embedded")
    return connect(target, embedded=True, progress=project.progress)


def _for_this_process(running: Daemon) -> dict[str, str]:
    """Return the server's variables for this process, which goes on trusting what it trusted.

    SSL_CERT_FILE, which Python's own TLS reads, names all that and the server's authority. So does
    REQUESTS_CA_BUNDLE elsewhere; here it names the latter alone: each of the SDK's requests reads the file, and
    150 authorities take 20 ms.
    """
    return {**running.environment(), "REQUESTS_CA_BUNDLE": str(running.folder / "tls" / "ca.pem")}


def _tell_once(project: Project) -> None:
    """Say that the SDK is out of support, the first time in this checkout."""
    told = project.state / _TOLD
    if not told.exists():
        project.progress.say(_OUT_OF_SUPPORT)
        project.state.mkdir(parents=True, exist_ok=True)
        told.touch()
