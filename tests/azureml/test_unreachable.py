"""A workspace that isn't there, or doesn't let one in: said in words, in seconds, by the real SDK."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import certifi
import pytest

from lockstep.workspace.daemon import Daemon
from tests.azureml.conftest import ROOT
from tests.workspace.client import SdkError

CONNECT = """
from lockstep.azureml import Target, connect
from lockstep.errors import LockstepError
try:
    result = connect(Target(name, subscription, "lockstep", "test"), embedded=True).name
except LockstepError as error:
    result = str(error)
"""
SUBSCRIPTION = "00000000-0000-4000-8000-000000000001"


def connected(folder: Path, environment: dict[str, str], **values: str) -> Any:
    """Connect in a process of its own and return the workspace's name, or what was said."""
    names = {"name": "embedded", "subscription": SUBSCRIPTION, **values}
    code = "".join(f"{name} = {value!r}\n" for name, value in names.items()) + CONNECT
    told = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder), **environment}
    code += "import json\nprint(json.dumps(result))\n"
    done = subprocess.run([sys.executable, "-c", code], env=told, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise SdkError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def test_it_connects(tmp_path: Path, workspace_server: Daemon) -> None:
    """The very same call works where nothing is wrong."""
    assert connected(tmp_path, workspace_server.environment()) == "embedded"


def test_nobody_listens(tmp_path: Path, workspace_server: Daemon) -> None:
    """The workspace's address leads nowhere."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"https://127.0.0.1:{port}/metadata/endpoints?api-version=2019-05-01"
    told = connected(tmp_path, {**workspace_server.environment(), "ARM_CLOUD_METADATA_URL": url})
    assert "can't be reached" in told
    assert "HTTPS_PROXY" in told


def test_unknown_authority(tmp_path: Path, workspace_server: Daemon) -> None:
    """The service's certificate is from an authority that isn't trusted, as behind a company's proxy."""
    others = {"REQUESTS_CA_BUNDLE": certifi.where(), "SSL_CERT_FILE": certifi.where()}
    told = connected(tmp_path, {**workspace_server.environment(), **others})
    assert "REQUESTS_CA_BUNDLE" in told


@pytest.mark.parametrize(
    ("name", "value"), [("name", "other"), ("subscription", "11111111-0000-4000-8000-000000000001")]
)
def test_another_workspace(tmp_path: Path, workspace_server: Daemon, name: str, value: str) -> None:
    """A name or a subscription that isn't there is said with where to look."""
    told = connected(tmp_path, workspace_server.environment(), **{name: value})
    assert told.startswith("Connecting to the workspace")
    assert "Check workspace, subscription" in told


def test_sign_in_refused(tmp_path: Path, workspace_server: Daemon) -> None:
    """The managed identity's endpoint gives no token."""
    environment = workspace_server.environment()
    environment["MSI_ENDPOINT"] = environment["MSI_ENDPOINT"].replace("/token", "x/token")
    told = connected(tmp_path, environment)
    assert told.startswith("Connecting to the workspace")
    assert "az login" in told
