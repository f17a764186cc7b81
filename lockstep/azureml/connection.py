"""Connecting: signing in, in the order that people expect, and opening the workspace."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lockstep.azureml.discovery import keep_discovery_private
from lockstep.azureml.failures import SIGN_IN, azureml_errors
from lockstep.azureml.values import Target
from lockstep.errors import WorkspaceError
from lockstep.progress import SILENT, Progress

if TYPE_CHECKING:
    from lockstep.azureml.workspace import Workspace

SERVICE_PRINCIPAL = (
    "AZUREML_SERVICE_PRINCIPAL_TENANT_ID",
    "AZUREML_SERVICE_PRINCIPAL_ID",
    "AZUREML_SERVICE_PRINCIPAL_PASSWORD",
)
AZURE_IDENTITY = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")
"""What every other Azure tool calls them."""
MARGIN_SECONDS = 300
"""A token that ends sooner is fetched anew."""


def point_sdk_at(environment: Mapping[str, str]) -> None:
    """Make this process's SDK talk to the embedded workspace. It reads these variables when it is imported.

    Raises WorkspaceError when it has been imported for another one already.
    """
    read_at_import = ("ARM_CLOUD_METADATA_URL", "AZUREML_CURRENT_CLOUD")
    differs = any(os.environ.get(name) != environment.get(name) for name in read_at_import)
    if differs and "azureml._vendor.azure_cli_core" in sys.modules:
        raise WorkspaceError(
            "The SDK of this process is bound to another workspace already.",
            "Use one workspace in a process.",
        )
    os.environ.update(environment)
    for (
        name
    ) in SERVICE_PRINCIPAL:  # those of a real workspace; the SDK would prefer them in some of its calls
        os.environ.pop(name, None)


def connect(
    target: Target, *, tenant: str = "", embedded: bool = False, progress: Progress = SILENT
) -> Workspace:
    """Sign in and return the workspace. Raises WorkspaceError in words, with what mends it."""
    from lockstep.azureml.workspace import Workspace

    keep_discovery_private()
    with azureml_errors(f"connecting to the workspace {target.name}"):
        _quiet()
        from azureml.core import Workspace as SdkWorkspace

        auth = _managed_identity() if embedded else _sign_in(tenant, progress)
        return Workspace(
            SdkWorkspace(target.subscription, target.resource_group, target.name, auth=auth), embedded
        )


def _sign_in(tenant: str, progress: Progress) -> Any:
    """Return who we are: service principal variables, managed identity, Azure CLI, then a browser.

    Nothing asks a question where nobody can answer it.
    """
    from azureml.core.authentication import InteractiveLoginAuthentication, ServicePrincipalAuthentication

    principal = _service_principal()
    if principal:
        progress.say(f"Signing in as the service principal {principal[1]}.")
        return ServicePrincipalAuthentication(tenant or principal[0], principal[1], principal[2])
    if "MSI_ENDPOINT" in os.environ or "IDENTITY_ENDPOINT" in os.environ:
        progress.say("Signing in with this machine's managed identity.")
        return _managed_identity()
    if _az_is_signed_in():
        progress.say("Signing in with the Azure CLI's account.")
        return _azure_cli(tenant)
    if not sys.stdin.isatty():
        raise WorkspaceError("Nobody is signed in to Azure, and there is no terminal to sign in at.", SIGN_IN)
    progress.say("Signing in with the browser.")
    return InteractiveLoginAuthentication(tenant_id=tenant or None)


def _managed_identity() -> Any:
    """Return an authentication that keeps its tokens: the SDK's own asks twice before each request."""
    from azureml.core.authentication import MsiAuthentication, TokenAuthentication

    asking = MsiAuthentication()
    return TokenAuthentication(_keeping(lambda resource: (asking._get_resource_token(resource), None)))


def _keeping(fetch: Callable[[str], tuple[str, float | None]]) -> Callable[[str], str]:
    """Return a function that gives the token for a resource, fetching it anew only when it is about to end.

    `fetch` returns a token and when it ends (epoch seconds), None where only the token itself says that.
    """
    kept: dict[str, tuple[str, float]] = {}

    def token(resource: str) -> str:
        if resource not in kept or kept[resource][1] < time.time() + MARGIN_SECONDS:
            import jwt

            fetched, end = fetch(resource)
            if end is None:
                end = float(jwt.decode(fetched, options={"verify_signature": False})["exp"])
            kept[resource] = fetched, end
        return kept[resource][0]

    return token


def _service_principal() -> tuple[str, str, str] | None:
    for names in (SERVICE_PRINCIPAL, AZURE_IDENTITY):
        tenant, identifier, password = (os.environ.get(name, "") for name in names)
        if tenant and identifier and password:
            return tenant, identifier, password
    return None


def _az(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the Azure CLI; without one, it is as if it had failed."""
    program = shutil.which("az")
    if program is None:
        return subprocess.CompletedProcess(arguments, 127, "", "the Azure CLI isn't installed")
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120, check=False)


def _az_is_signed_in() -> bool:
    return _az("account", "show", "--output", "none").returncode == 0


def _azure_cli(tenant: str) -> Any:
    """Return an authentication that asks `az` for tokens; `tenant` "" is the CLI's default.

    The SDK's own AzureCliAuthentication wants the CLI's packages inside this virtual environment.
    """
    from azureml.core.authentication import TokenAuthentication

    def fetch(resource: str) -> tuple[str, float | None]:
        words = ["account", "get-access-token", "--resource", resource, "--output", "json"]
        done = _az(*words, *(("--tenant", tenant) if tenant else ()))
        if done.returncode:
            raise WorkspaceError(f"The Azure CLI gave no token: {done.stderr.strip()[-400:]}", SIGN_IN)
        told = json.loads(done.stdout)
        return told["accessToken"], told.get("expires_on")

    return TokenAuthentication(_keeping(fetch))


def _quiet() -> None:
    """Keep the SDK's own log lines (deprecations, retries) off the terminal; its errors are exceptions."""
    for name in ("azureml", "azure", "msrest", "msal", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("azureml").propagate = False
