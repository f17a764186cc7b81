"""Signing in: service principal variables, managed identity, Azure CLI, and nobody to ask."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.azureml.conftest import ROOT, Checkout
from tests.workspace.client import Client

SIGN_IN = """
import io, os, sys
sys.stdin = io.StringIO()  # nobody is there to answer
from lockstep.azureml import connection
from lockstep.errors import LockstepError
from lockstep.progress import Progress
said = []
class Listener(Progress):
    def say(self, text):
        said.append(text)
os.environ.update(variables)
try:
    auth = connection._sign_in(tenant, Listener())
    result = {"said": said, "kind": type(auth).__name__}
    if "CLI" in said[0]:
        result["header"] = auth.get_authentication_header()
        auth.get_authentication_header()
except LockstepError as error:
    result = {"said": said, "error": str(error)}
"""
PRINCIPAL = {
    "AZUREML_SERVICE_PRINCIPAL_TENANT_ID": "tenant-a",
    "AZUREML_SERVICE_PRINCIPAL_ID": "the-app",
    "AZUREML_SERVICE_PRINCIPAL_PASSWORD": "not the secret",
}


AZ = """#!/bin/sh
echo "$@" >> {folder}/calls
if [ -e {folder}/signed-out ]; then echo "Please run az login" >&2; exit 1; fi
[ "$2" = show ] || echo '{answer}'
"""


@pytest.fixture
def az(tmp_path: Path) -> Path:
    """A folder with an `az` that notes how it is called and gives a token."""
    end = int(time.time()) + 3600
    token = jwt.encode({"exp": end, "tid": "t"}, "k" * 32)
    program = tmp_path / "bin" / "az"
    program.parent.mkdir()
    program.write_text(
        AZ.format(folder=tmp_path, answer=json.dumps({"accessToken": token, "expires_on": end}))
    )
    program.chmod(0o755)
    return tmp_path


def sign_in(folder: Path, *, tenant: str = "", **variables: str) -> Any:
    """Sign in, in a process of its own that finds `az` in the folder, and return what came of it."""
    unset = dict.fromkeys((*PRINCIPAL, "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID"), "")
    path = os.pathsep.join((str(folder / "bin"), os.environ["PATH"]))
    environment = {**unset, "PATH": path, "PYTHONPATH": str(ROOT), "AZUREML_CURRENT_CLOUD": "AzureCloud"}
    client = Client(environment, folder / "home")
    try:
        return client.run(SIGN_IN, variables=variables, tenant=tenant)
    finally:
        client.close()


def test_azure_cli(az: Path) -> None:
    """Where `az` is signed in, its token is used, asked for once; --tenant goes to it."""
    told = sign_in(az, tenant="other")
    assert told["said"] == ["Signing in with the Azure CLI's account."]
    assert told["header"]["Authorization"].startswith("Bearer ey")
    calls = (az / "calls").read_text().splitlines()
    assert [
        call for call in calls if "get-access-token" in call and call.endswith("--tenant other")
    ] == calls[1:]
    assert len(calls) == 2


def test_service_principal_wins(az: Path) -> None:
    """The variables of a service principal win over the CLI; Azure's general names for them count too."""
    told = sign_in(az, **PRINCIPAL)
    assert told["said"] == ["Signing in as the service principal the-app."]
    general = {"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "general", "AZURE_CLIENT_SECRET": "x"}
    told = sign_in(az, **general)
    assert told["said"] == ["Signing in as the service principal general."]
    assert not (az / "calls").exists()


def test_nobody_signed_in(az: Path) -> None:
    """Without any sign-in and without a terminal, nothing hangs: it says what to do."""
    (az / "signed-out").touch()
    told = sign_in(az)
    assert "no terminal" in told["error"]
    assert "az login" in told["error"]


def test_managed_identity(checkout: Checkout) -> None:
    """The embedded workspace's managed identity signs in, and its token is asked for once."""
    log = checkout.root / ".lockstep" / "workspace" / "server.log"
    before = log.read_text().count("/MSI/")
    checkout.run("service = open_workspace(project)\nresult = service.runs('nothing')\nservice.uploads('')\n")
    assert 1 <= log.read_text().count("/MSI/") - before <= 3
