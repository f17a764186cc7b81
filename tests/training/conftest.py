"""What the tests of src/ share: the built image, tiny datasets, and a run of the training in it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lockstep.datasets.dataset import add_image, png
from lockstep.engine import Engine, connect
from lockstep.home import Home
from lockstep.runs.job import Job
from lockstep.runs.run import RunRecord
from lockstep.training import train_local

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine that answers; started, and installed, where that is possible."""
    with connect(install=True, home=Home(tmp_path_factory.mktemp("engine"))) as engine:
        yield engine


@dataclass(frozen=True)
class Trained:
    """A finished run: its record, what it printed, and what it left."""

    record: RunRecord
    lines: list[str]
    outputs: Path

    @property
    def weights(self) -> str:
        """The sha256 of the weights."""
        assert self.record.weights is not None, self.lines
        return self.record.weights.sha256


Train = Callable[..., Trained]


def write_images(folder: Path, *, train: int, test: int, classes: int = 3) -> Path:
    """Write a dataset of noise around a colour for each class; the same for equal numbers."""
    noise = random.Random(0)
    for split, count in (("train", train), ("test", test)):
        for index in range(count):
            kind = index % classes
            colour = [40 + 60 * ((kind + shift) % 3) for shift in range(3)]
            rgb = bytes(max(0, min(255, colour[byte % 3] + noise.randrange(-40, 40))) for byte in range(3072))
            add_image(folder, split, f"class{kind}", f"{index:03}.png", png(rgb))
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with this repository's src/ and 61 images to train on; 61 leaves odd last batches."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "data" / "tiny").mkdir(parents=True)
    write_images(tmp_path / "data" / "tiny", train=61, test=12)
    return tmp_path


@pytest.fixture
def train(engine: Engine, torch_image: str, project: Path) -> Train:
    """Run the project's training in the image."""

    def run(
        *arguments: str | int | float, variables: dict[str, str] | None = None, processes: int = 1
    ) -> Trained:
        lines: list[bytes] = []
        job = Job(
            inputs=(("data", "data/tiny"),),
            arguments=arguments,
            environment_variables=tuple((variables or {}).items()),
            processes=processes,
        )
        record = train_local(
            job,
            image_id=torch_image,
            lock_hash=None,
            engine=engine,
            root=project,
            runs=project / "runs",
            home=Home(project / "home"),
            on_line=lines.append,
        )
        return Trained(record, [line.decode() for line in lines], project / "runs" / record.id / "outputs")

    return run
