"""What the workspace's tests share: a server as people start it, the SDK beside it, and images for jobs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lockstep.engine import Engine, connect
from lockstep.home import Home
from lockstep.workspace import daemon
from lockstep.workspace.daemon import Daemon
from tests.workspace.client import Client
from tests.workspace.images import python_tar

MLFLOW_PYTHON = Path(__file__).parents[2] / ".venv-workspace" / "bin" / "python"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's workspace keeps its state."""
    return tmp_path_factory.mktemp("project") / ".lockstep" / "workspace"


@pytest.fixture(scope="session")
def server(folder: Path) -> Iterator[Daemon]:
    """A workspace's server, without MLflow."""
    running = daemon.start(folder)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def client(server: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The SDK, pointed at the server."""
    client = Client(server.environment(), tmp_path_factory.mktemp("client"))
    yield client
    client.close()


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine that answers."""
    with connect(install=True, home=Home(tmp_path_factory.mktemp("engine"))) as engine:
        yield engine


def imported(engine: Engine, name: str, tar: Callable[[], bytes]) -> str:
    """Return the name of an image made of a tar, kept in the engine from one session to the next."""
    if engine.image_id(name) is None:
        engine.api.import_image_from_data(tar(), *name.split(":"))
    return name


@pytest.fixture(scope="session")
def python_image(engine: Engine) -> str:
    """An image with Python and a shell."""
    version = ".".join(map(str, sys.version_info[:3]))
    return imported(engine, f"lockstep-test/python:{version}", lambda: python_tar(with_packages=False))


@pytest.fixture(scope="session")
def sdk_image(engine: Engine) -> str:
    """An image with Python and azureml-core."""
    version = ".".join(map(str, sys.version_info[:3]))
    return imported(engine, f"lockstep-test/azureml:{version}", lambda: python_tar(with_packages=True))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An empty source folder."""
    path = tmp_path / "src"
    path.mkdir()
    return path
