"""What the tests of submitting share: a project, an embedded workspace, a process that uses both."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lockstep.engine import Engine
from lockstep.home import Home
from lockstep.progress import Progress
from lockstep.project import Project
from lockstep.settings import read_settings
from lockstep.submission.embedded import start_embedded
from lockstep.workspace.daemon import Daemon
from tests.workspace.client import Client
from tests.workspace.conftest import engine, python_image  # noqa: F401 - fixtures

ROOT = Path(__file__).parents[2]
SCRIPT = """
import argparse, json, os, pathlib, time
parser = argparse.ArgumentParser()
parser.add_argument("--data", type=pathlib.Path)
parser.add_argument("--epochs", type=int, default=1)
parser.add_argument("--fail", action="store_true")
parser.add_argument("--hostile", action="store_true")
told = parser.parse_args()
print("images", sorted(path.name for path in told.data.rglob("*.png")), flush=True)
print("threads", os.environ.get("OMP_NUM_THREADS"), "rank", os.environ.get("RANK"), flush=True)
for epoch in range(told.epochs):
    time.sleep(0.1)
    print("epoch", epoch, flush=True)
if told.fail:
    raise SystemExit(3)
if os.environ.get("RANK", "0") == "0":
    outputs = pathlib.Path("outputs")
    outputs.mkdir(exist_ok=True)
    (outputs / "model.pt").write_bytes(b"weights after %d epochs" % told.epochs)
    facts = {"seed": 0, "threads": 1, "curves": {"loss": [[1, 2.0], [2, 1.5]]}}
    (outputs / "metrics.json").write_text(json.dumps(facts))
if told.hostile:
    os.symlink("/etc/passwd", "outputs/link")
    os.mkfifo("outputs/pipe")
    with open("outputs/huge", "wb") as file:
        file.truncate(1 << 43)
print("Finished Training", flush=True)
"""
PREPARE = """
import dataclasses
from pathlib import Path
from lockstep.azureml import *
from lockstep.runs.compare import conclusion
from lockstep.engine import connect as connect_engine
from lockstep.home import Home
from lockstep.runs.job import make_job
from lockstep.progress import Progress
from lockstep.project import Project
from lockstep.settings import read_settings
from lockstep.submission import submit_job
from lockstep.training import train_local
from lockstep.submission.workspaces import open_workspace
from lockstep.submission import data as remote_data
from lockstep.submission import runs as remote_runs

said, lines = [], []

class Listener(Progress):
    def say(self, text):
        said.append(text)

def project_of(azure=None):
    root = Path(checkout)
    settings = read_settings(root, {"job": {"data": "d"}, "azure": azure or {}})
    return Project(settings, Home(root / "home"), Listener(), False)

def facts(value):
    return dataclasses.asdict(value)

project = project_of()
engine = connect_engine(install=False)
image_id = engine.image_id(image)
own = OwnImage(image_id, image_id, "ab" * 32)

def job_of(*arguments, **settings):
    made = make_job(project.settings.job, "data/d", extra=arguments)
    return dataclasses.replace(made, **settings)

def local(job):
    return train_local(job, image_id=image_id, lock_hash=own.lock_hash, engine=engine, root=Path(checkout),
                       runs=project.settings.runs, home=project.home, on_line=lambda line: None)

def submitted(job, choice=own, wait=True):
    return submit_job(project, open_workspace(project), job, choice, wait=wait, on_line=lines.append)
"""


class Checkout:
    """A project's folder, and a process in which its functions are called."""

    def __init__(self, root: Path, client: Client, image: str) -> None:
        self.root = root
        self.client = client
        self.image = image

    def run(self, code: str, **values: object) -> object:
        """Run code that finds `project`, `own`, `job_of`, `local` and `submitted`; return its `result`."""
        values = {**values, "checkout": str(self.root), "image": self.image}
        named = "".join(f"{name} = {value!r}\n" for name, value in values.items())
        return self.client.run(named + PREPARE + code)


@pytest.fixture(scope="session")
def project_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a script and three images."""
    root = tmp_path_factory.mktemp("checkout")
    (root / "src").mkdir()
    (root / "src" / "train.py").write_text(SCRIPT)
    for name in ("one", "two", "three"):
        path = root / "data" / "d" / "train" / "class" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


@pytest.fixture(scope="session")
def workspace_server(project_root: Path) -> Iterator[Daemon]:
    """The project's embedded workspace, with the pipeline behind it."""
    project = Project(read_settings(project_root, {}), Home(project_root / "home"), Progress(), False)
    running = start_embedded(project)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def checkout(
    project_root: Path,
    workspace_server: Daemon,
    engine: Engine,  # noqa: F811
    python_image: str,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Checkout]:
    """The project, its workspace running, and a process with the SDK."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    client = Client({**workspace_server.environment(), "PYTHONPATH": path}, tmp_path_factory.mktemp("user"))
    yield Checkout(project_root, client, python_image)
    client.close()
