"""The tutorial's control script, its text unchanged, against a workspace that builds conda specs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from lockstep.workspace import daemon
from lockstep.workspace.daemon import Daemon
from tests.workspace.client import Client

pytestmark = pytest.mark.engine

CONTROL = """\
# 04-run-pytorch.py
from azureml.core import Workspace
from azureml.core import Experiment
from azureml.core import Environment
from azureml.core import ScriptRunConfig

if __name__ == "__main__":
    ws = Workspace.from_config()
    experiment = Experiment(workspace=ws, name='day1-experiment-train')
    config = ScriptRunConfig(source_directory='./src',
                             script='train.py',
                             compute_target='cpu-cluster')

    # set up pytorch environment
    env = Environment.from_conda_specification(
        name='pytorch-env',
        file_path='./.azureml/pytorch-env.yml'
    )
    config.run_config.environment = env

    run = experiment.submit(config)

    aml_url = run.get_portal_url()
    print(aml_url)
"""

SERVE = """
import sys
from pathlib import Path
from lockstep.workspace.server import Parts, find_engine, serve

def build(definition, say):
    say("the packages: " + ", ".join(map(str, definition["python"]["condaDependencies"]["dependencies"])))
    if "nonsense" in definition["python"]["condaDependencies"]["dependencies"]:
        from lockstep.errors import SolveError
        raise SolveError("Nothing provides nonsense.", "Mend the spec.")
    return find_engine().image_id(sys.argv[2])

serve(Path(sys.argv[1]), Parts(find_engine, build_environment=build))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tutorial's folders and files, with a train.py that needs nothing but the SDK."""
    project = tmp_path_factory.mktemp("tutorial")
    (project / "src").mkdir()
    (project / ".azureml").mkdir()
    (project / ".azureml" / "config.json").write_text(json.dumps(daemon.config()))
    (project / "04-run-pytorch.py").write_text(CONTROL)
    (project / "src" / "train.py").write_text(
        textwrap.dedent("""
        from azureml.core import Run

        run = Run.get_context()
        for epoch in range(2):
            for batch in range(2000, 14000, 2000):
                loss = 2.2 / (1 + epoch + batch / 10000)
                run.log('loss', loss)
                print(f'epoch={epoch + 1}, batch={batch:5}: loss {loss:.2f}')
        print('Finished Training')
        """)
    )
    return project


@pytest.fixture(scope="module")
def building(project: Path, sdk_image: str) -> Iterator[Daemon]:
    """A workspace with something that builds specs: it answers with an image that the engine has."""
    folder = project / ".lockstep" / "workspace"
    running = daemon.start(folder, [sys.executable, "-c", SERVE, str(folder), sdk_image])
    yield running
    running.stop()


@pytest.fixture(scope="module")
def its_client(building: Daemon, project: Path) -> Iterator[Client]:
    """The SDK, pointed at that workspace."""
    client = Client(building.environment(), project / "home")
    yield client
    client.close()


def submit(project: Path, building: Daemon, dependencies: list[str]) -> str:
    """Run the control script as the tutorial says, and return the id of its run."""
    spec = {"name": "pytorch-env", "channels": ["defaults", "pytorch"], "dependencies": dependencies}
    (project / ".azureml" / "pytorch-env.yml").write_text(json.dumps(spec))
    home = project / "shell"
    home.mkdir(exist_ok=True)
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "04-run-pytorch.py"],
        cwd=project, env={**os.environ, **building.environment(), "HOME": str(home)}, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    url = told.stdout.strip().splitlines()[-1]
    assert url.startswith(f"http://127.0.0.1:{building.studio_port}/studio/")
    return url.partition("/runs/")[2].partition("?")[0]


LOOK = """
ws = Workspace.get("embedded", subscription_id="00000000-0000-4000-8000-000000000001", resource_group="lockstep")
run = Run.get(ws, run_id)
run.wait_for_completion(raise_on_error=False)
details = run.get_details_with_logs()
result = {"status": details["status"], "metrics": run.get_metrics(), "logs": details["logFiles"],
          "error": (details.get("error") or {}).get("error", {}).get("message"),
          "environment": [run.get_environment().name, run.get_environment().version]}
"""


def test_the_tutorial_runs_to_finished_training(project: Path, building: Daemon, its_client: Client) -> None:
    """The spec is built (20_image_build_log.txt), the script runs (70_driver_log.txt), every loss arrives."""
    ran = its_client.run(LOOK, run_id=submit(project, building, ["python=3.11", "pytorch"]))
    assert ran["status"] == "Completed", ran
    assert "the packages: python=3.11, pytorch" in ran["logs"]["azureml-logs/20_image_build_log.txt"]
    assert ran["logs"]["azureml-logs/70_driver_log.txt"].rstrip().endswith("Finished Training")
    assert ran["logs"]["azureml-logs/70_driver_log.txt"] == ran["logs"]["user_logs/std_log.txt"]
    assert len(ran["metrics"]["loss"]) == 12
    assert ran["environment"] == ["pytorch-env", "1"]


def test_the_same_spec_is_not_built_again(project: Path, building: Daemon, its_client: Client) -> None:
    """A second run of the same spec has no build log, and its environment no new version."""
    its_client.run(LOOK, run_id=submit(project, building, ["python=3.11", "pytorch"]))
    ran = its_client.run(LOOK, run_id=submit(project, building, ["python=3.11", "pytorch"]))
    assert ran["status"] == "Completed"
    assert "azureml-logs/20_image_build_log.txt" not in ran["logs"]
    assert ran["environment"] == ["pytorch-env", "1"]


def test_a_spec_that_can_not_be_built_says_why(project: Path, building: Daemon, its_client: Client) -> None:
    """The run is Failed with the builder's words, which are in the build log too."""
    ran = its_client.run(LOOK, run_id=submit(project, building, ["nonsense"]))
    assert ran["status"] == "Failed"
    assert "Nothing provides nonsense." in ran["error"]
    assert "Nothing provides nonsense." in ran["logs"]["azureml-logs/20_image_build_log.txt"]
