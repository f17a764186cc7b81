"""What the registry's tests share: Debian's docker-registry on loopback, and images."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from lockstep.home import Home
from lockstep.image import LAYER, Image, ImageLayer
from lockstep.image.store import Store

PASSWORD = "pw"
HASHED = (
    "$2b$04$aXAMNI.ukX7kKbIz4ayj3uUXab3UmK8R2UiwXU2OoGtmCga.kdN72"  # bcrypt of PASSWORD, at its lowest cost
)


@dataclass(frozen=True)
class Registry:
    """A registry that runs: its host with port, and the folder that it keeps everything in."""

    host: str
    folder: Path

    def blob(self, digest: str) -> bytes:
        """Return a blob as the registry keeps it."""
        hex_ = digest.removeprefix("sha256:")
        path = self.folder / "data/docker/registry/v2/blobs/sha256" / hex_[:2] / hex_ / "data"
        return path.read_bytes()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def start_registry(tmp_path: Path) -> Iterator[Callable[..., Registry]]:
    """A function that starts a registry, with an `auth` section for its config."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("needs Debian's docker-registry")
    running: list[subprocess.Popen[bytes]] = []

    def start(auth: dict[str, object] | None = None) -> Registry:
        folder = tmp_path / f"registry-{len(running)}"
        folder.mkdir()
        host = f"127.0.0.1:{free_port()}"
        config: dict[str, object] = {
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
            "http": {"addr": host},
        }
        if auth:
            config["auth"] = auth
        (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([program, "serve", folder / "config.yml"], stdout=log, stderr=log)
        running.append(process)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and process.poll() is None:
            try:
                httpx.get(f"http://{host}/v2/", trust_env=False)
                return Registry(host, folder)
            except httpx.TransportError:
                time.sleep(0.02)
        raise AssertionError((folder / "log").read_text())

    yield start
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def registry(start_registry: Callable[..., Registry]) -> Registry:
    """A registry without accounts."""
    return start_registry()


@pytest.fixture
def guarded(start_registry: Callable[..., Registry], tmp_path: Path) -> Registry:
    """A registry with one account, `me`, whose password is PASSWORD."""
    (tmp_path / "htpasswd").write_text(f"me:{HASHED}\n")
    return start_registry({"htpasswd": {"realm": "test", "path": str(tmp_path / "htpasswd")}})


@pytest.fixture(autouse=True)
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty docker config of the test's own, in place of the person's."""
    folder = tmp_path / "docker-config"
    folder.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    return folder / "config.json"


def log_in(config: Path, host: str, user: str = "me", password: str = PASSWORD, **more: str) -> None:
    """Write what `docker login` writes."""
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    config.write_text(json.dumps({"auths": {host: {"auth": auth, **more}}}))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store of the test's own."""
    return Store(Home(tmp_path / "home"))


def layer(store: Store, *, size: int = 1000, gzipped: bool = False) -> ImageLayer:
    """Put a layer with random bytes into the store, compressed as a base's is or not."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        info = tarfile.TarInfo(f"file-{os.urandom(4).hex()}")
        info.size = size
        tar.addfile(info, io.BytesIO(os.urandom(size)))
    diff_id = store.put(data.getvalue())
    if not gzipped:
        return ImageLayer(diff_id, diff_id, LAYER, len(data.getvalue()))
    import gzip

    blob = gzip.compress(data.getvalue())
    store.blob(diff_id).unlink()
    return ImageLayer(diff_id, store.put(blob), f"{LAYER}+gzip", len(blob))


def make_image(*layers: ImageLayer) -> Image:
    """Return an image of some layers."""
    told = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created_by": "test"} for _ in layers],
    }
    return Image(json.dumps(told).encode(), layers)


@pytest.fixture
def image(store: Store) -> Image:
    """An image of a compressed base layer and two of our own."""
    return make_image(layer(store, gzipped=True), layer(store, size=300_000), layer(store))
