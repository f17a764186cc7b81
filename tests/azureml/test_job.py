"""From a Job to what the SDK sends: nothing is asked of a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.azureml.conftest import ROOT
from tests.workspace.client import Client, SdkError

DESCRIBE = """
from pathlib import Path
from lockstep.azureml import *
from lockstep.runs.job import Job
inputs = {"data": RemoteData("workspaceblobstore", "lockstep/data/d-1")}
image = OwnImage("registry.example/env@sha256:" + "1" * 64, "sha256:" + "2" * 64, "3" * 64)
def told(job, choice=image, mode="download"):
    return describe(job, "env", choice, "gpu-cluster", inputs, mode)
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A process with the SDK and without any workspace."""
    environment = {
        "PYTHONPATH": str(ROOT),
        "AZUREML_CURRENT_CLOUD": "AzureCloud",
        "ARM_CLOUD_METADATA_URL": "",
    }
    client = Client(environment, tmp_path_factory.mktemp("user"))
    yield client
    client.close()


def described(client: Client, expression: str, **values: Any) -> Any:
    """Return the document of an expression that calls `told`."""
    return client.run(DESCRIBE + f"result = {expression}", **values)


def test_single_process(client: Client) -> None:
    """Script, arguments with the data's place, variables, shared memory and compute are the Job's."""
    job = (
        "Job(arguments=('--lr', 0.1, '--name', 'a b'), inputs=(('data', 'data/d'),), shm_size='512m', "
        "environment_variables=(('A', '1'),))"
    )
    told = described(client, f"told({job})")
    assert told["script"] == "train.py"
    assert told["arguments"] == ["--data", "$AZUREML_DATAREFERENCE_data", "--lr", 0.1, "--name", "a b"]
    assert told["environmentVariables"] == {"A": "1"}
    assert (told["docker"]["useDocker"], told["docker"]["shmSize"]) == (True, "512m")
    assert (told["target"], told["framework"], told["nodeCount"]) == ("gpu-cluster", "Python", 1)
    reference = told["dataReferences"]["data"]
    assert reference["dataStoreName"] == "workspaceblobstore"
    assert reference["pathOnDataStore"] == "lockstep/data/d-1"
    assert reference["mode"] == "download"


def test_nodes_and_processes(client: Client) -> None:
    """The SDK counts processes over all nodes; a Job counts those of a node."""
    told = described(client, "told(Job(nodes=2, processes=3), mode='mount')")
    assert told["framework"] == "PyTorch"
    assert told["nodeCount"] == 2
    assert (told["pytorch"]["processCount"], told["pytorch"]["nodeCount"]) == (6, 2)
    assert told["environmentVariables"] == {"OMP_NUM_THREADS": "1"}
    assert told["dataReferences"]["data"]["mode"] == "mount"


def test_own_image(client: Client) -> None:
    """The image goes by digest, nothing is installed into it, and the version carries both identities."""
    environment = described(client, "told(Job())")["environment"]
    assert environment["docker"]["baseImage"] == "registry.example/env@sha256:" + "1" * 64
    assert environment["python"]["userManagedDependencies"] is True
    assert environment["version"] == "2" * 16 + "." + "3" * 16
    assert not environment["environmentVariables"]  # not the SDK's EXAMPLE_ENV_VAR


def test_curated(client: Client) -> None:
    """A curated environment is named, with a version if one was asked for."""
    environment = described(client, "told(Job(), Curated('AzureML-Minimal', '7'))")["environment"]
    assert (environment["name"], environment["version"]) == ("AzureML-Minimal", "7")


def test_built_remotely(client: Client, tmp_path: Path) -> None:
    """A conda file and requirements are read by the SDK's own functions."""
    conda, pip = tmp_path / "env.yml", tmp_path / "requirements.txt"
    conda.write_text("channels: [conda-forge]\ndependencies: [python=3.11, {pip: [torch]}]\n")
    pip.write_text("torch==2.1\n")
    told = described(client, f"told(Job(), BuiltRemotely(Path({str(conda)!r})))")["environment"]["python"]
    assert told["userManagedDependencies"] is False
    assert "python=3.11" in told["condaDependencies"]["dependencies"]
    told = described(client, f"told(Job(), BuiltRemotely(Path({str(pip)!r}), requirements=True))")[
        "environment"
    ]
    assert {"pip": ["torch==2.1"]} in told["python"]["condaDependencies"]["dependencies"]


def test_missing_conda_file(client: Client, tmp_path: Path) -> None:
    """A conda file that isn't there is said in words."""
    with pytest.raises(SdkError, match=r"SpecError.*isn't there"):
        described(client, f"told(Job(), BuiltRemotely(Path({str(tmp_path / 'none.yml')!r})))")
