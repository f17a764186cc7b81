"""What the engine's tests share: a tiny image made of the host's shell, and an engine that answers."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from lockstep.engine import Engine, connect
from lockstep.home import Home
from lockstep.image import LAYER, Image, ImageLayer
from lockstep.image.store import Store

PROGRAMS = (
    *("sh", "cat", "sleep", "ls", "id", "mkdir", "rm", "echo", "chmod", "chown", "touch", "dd", "stty", "ln"),
    *("mkfifo", "truncate"),
)


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system of the host's shell, a few programs and the libraries that they need."""
    root = tmp_path_factory.mktemp("rootfs")
    for folder in ("bin", "tmp", "proc", "sys", "dev", "etc"):
        (root / folder).mkdir()
    for program in PROGRAMS:
        found = shutil.which(program)
        assert found, program
        shutil.copy(Path(found).resolve(), root / "bin" / program)
        told = subprocess.run(["ldd", found], capture_output=True, text=True, check=True).stdout
        for library in re.findall(r"(/\S+) \(0x", told):
            target = root / library.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(library).resolve(), target)
    return root


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A store of the test's own."""
    return Home(tmp_path / "home")


@pytest.fixture
def store(home: Home) -> Store:
    """The store in `home`."""
    return Store(home)


def add_layer(store: Store, files: dict[str, bytes]) -> ImageLayer:
    """Put a layer of some files into the store."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(content), 0o755
            tar.addfile(info, io.BytesIO(content))
    digest = store.put(data.getvalue())
    return ImageLayer(digest, digest, LAYER, len(data.getvalue()))


def make_image(*layers: ImageLayer, **config: object) -> Image:
    """Return an image of some layers."""
    told = {
        "architecture": "amd64",
        "os": "linux",
        "created": "1980-01-01T00:00:00Z",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], **config},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created_by": "test"} for _ in layers],
    }
    return Image(json.dumps(told).encode(), layers)


@pytest.fixture
def base_layer(store: Store, rootfs: Path) -> ImageLayer:
    """A layer with `rootfs` in it, the same bytes whenever it is made."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for path in sorted(rootfs.rglob("*")):
            info = tar.gettarinfo(path, str(path.relative_to(rootfs)))
            info.uid = info.gid = info.mtime = 0
            info.uname = info.gname = ""
            info.mode = 0o1777 if path.name == "tmp" else 0o755
            if path.is_file():
                with path.open("rb") as file:
                    tar.addfile(info, file)
            else:
                tar.addfile(info)
    digest = f"sha256:{hashlib.sha256(data.getvalue()).hexdigest()}"
    with store.incoming(digest) as file:
        file.write(data.getvalue())
    return ImageLayer(digest, digest, LAYER, len(data.getvalue()))


@pytest.fixture
def image(store: Store, base_layer: ImageLayer) -> Image:
    """The tiny image in the store; no other test's image has its ID."""
    return make_image(base_layer, Labels={"test": uuid.uuid4().hex})


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine that answers; started, and installed, where that is possible."""
    with connect(install=True, home=Home(tmp_path_factory.mktemp("engine"))) as engine:
        yield engine


@pytest.fixture
def name(engine: Engine) -> Iterator[str]:
    """A name for an image, which is removed from the engine in the end."""
    name = f"lockstep-test/{uuid.uuid4().hex[:12]}:latest"
    yield name
    engine.remove_image(name)


@pytest.fixture
def delivered(engine: Engine, image: Image, store: Store, name: str) -> str:
    """The tiny image in the engine, by name."""
    engine.deliver(image, store, name)
    return name
