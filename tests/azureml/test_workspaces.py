"""Opening a workspace: the embedded one is known by its coordinates, and the SDK's age is told once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest

from lockstep.home import Home
from lockstep.progress import Progress
from lockstep.project import Project
from lockstep.settings import read_settings
from lockstep.submission import workspaces
from lockstep.submission.embedded import start_embedded
from lockstep.workspace import daemon
from tests.azureml.conftest import Checkout


class Listener(Progress):
    """A progress that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project without a workspace."""
    return Project(read_settings(tmp_path, {}), Home(tmp_path / "home"), Listener(), False)


def test_config_of_the_embedded_workspace_is_the_embedded_one(project: Project) -> None:
    """The config.json that `invoke workspace` gives the tutorial's script doesn't send `submit` to Azure."""
    folder = project.settings.root / ".azureml"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(daemon.config()))
    assert workspaces.target_of(project) is None
    (folder / "config.json").write_text(json.dumps({**daemon.config(), "workspace_name": "real"}))
    target = workspaces.target_of(project)
    assert target
    assert target.name == "real"


def test_out_of_support_is_told_once(project: Project) -> None:
    """The line about SDK v1 comes the first time in a checkout and not again."""
    workspaces._tell_once(project)
    workspaces._tell_once(project)
    assert isinstance(project.progress, Listener)
    assert len(project.progress.said) == 1
    assert "30 June 2026" in project.progress.said[0]


def test_server_of_older_code_is_started_anew(project: Project) -> None:
    """After an update of the checkout the next command gets a server of the new code; otherwise it stays."""
    first = start_embedded(project)
    try:
        assert start_embedded(project).pid == first.pid
        (first.folder / "code").write_text("what was there before the update")
        second = start_embedded(project)
        assert second.pid != first.pid
        assert second.answers()
    finally:
        running = daemon.find(first.folder)
        if running:
            running.stop()


@pytest.mark.engine
def test_what_this_process_trusts_stays(checkout: Checkout) -> None:
    """After the embedded workspace is opened Python's own TLS, which the SDK uses too, trusts one authority more."""
    result = checkout.run(
        "import os, ssl\n"
        "def trusted():\n"
        "    return [each['serialNumber'] for each in ssl.create_default_context().get_ca_certs()]\n"
        "os.environ.pop('SSL_CERT_FILE', None)\n"
        "before = trusted()\n"
        "open_workspace(project).runs('nothing')\n"
        "result = [before, trusted()]\n"
    )
    before, after = cast("list[list[str]]", result)
    assert before
    assert set(before) < set(after)
    assert len(after) == len(before) + 1
