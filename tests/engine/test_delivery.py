"""An image gets into the engine whole, quickly, under its name, and leaves nothing else there."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from lockstep.engine import Engine, archive, delivery, loopback
from lockstep.errors import EngineError
from lockstep.image import Image, ImageLayer
from lockstep.progress import SILENT, Progress, Task
from lockstep.store import Store
from tests.engine.conftest import add_layer, make_image

pytestmark = pytest.mark.engine


def names(engine: Engine, image: Image) -> tuple[list[str], list[str]]:
    """Return an image's tags and digests in the engine."""
    told = engine.api.inspect_image(image.id)
    return told["RepoTags"], told["RepoDigests"]


def test_pull_gives_the_images_id_and_one_name(engine: Engine, image: Image, store: Store, name: str) -> None:
    """After a delivery, the engine has the very image, called only what it was to be called."""
    told = engine.deliver(image, store, name)
    assert told.road == "pull"
    assert told.layers_new + told.layers_reused == 1
    assert engine.image_id(name) == image.id == told.image_id
    assert names(engine, image) == ([name], [])


def test_second_delivery_sends_nothing_and_is_quick(
    engine: Engine, image: Image, store: Store, name: str
) -> None:
    """What is there isn't pulled again, even when the store has lost its blobs."""
    engine.deliver(image, store, name)
    store.blob(image.layers[0].digest).unlink()
    began = time.perf_counter()
    told = engine.deliver(image, store, name)
    assert time.perf_counter() - began < 0.5
    assert told.road == "there already"


def test_only_new_layers_travel(
    engine: Engine, image: Image, store: Store, name: str, base_layer: ImageLayer
) -> None:
    """A second image on the same layers takes the new one only, and the name moves to it."""
    engine.deliver(image, store, name)
    more = make_image(base_layer, add_layer(store, {"hello": os.urandom(64)}))
    told = engine.deliver(more, store, name)
    assert (told.layers_new, told.layers_reused) == (1, 1)
    assert engine.image_id(name) == more.id
    assert engine.image_id(image.id) == image.id  # the one before stays until `clean`
    engine.remove_image(image.id)


def test_load_is_the_same_image(engine: Engine, image: Image, store: Store, name: str) -> None:
    """The road through `load` gives the same image ID and leaves no other name."""
    told = delivery.deliver(engine.api, image, store, name, SILENT, loads_only=True)
    assert told.road == "load"
    assert engine.image_id(name) == image.id
    assert names(engine, image) == ([name], [])


def test_engine_that_cannot_reach_loopback_gets_a_load(
    engine: Engine, image: Image, store: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing answers at the registry's address, the image is loaded instead, and that is said."""
    real = engine.api.pull
    said: list[str] = []

    class Listener(Progress):
        def say(self, text: str) -> None:
            said.append(text)

    def elsewhere(repository: str, **options: object) -> object:
        _, _, rest = repository.removeprefix("127.0.0.1:").partition("/")
        return real(f"127.0.0.2:1/{rest}", **options)

    monkeypatch.setattr(engine.api, "pull", elsewhere)
    told = engine.deliver(image, store, name, Listener())
    assert told.road == "load"
    assert engine.image_id(name) == image.id
    assert any("loopback" in line for line in said)


def test_missing_layer_is_an_error_with_a_remedy(
    engine: Engine, image: Image, store: Store, name: str
) -> None:
    """A store without the layer says so before the engine is asked."""
    store.blob(image.layers[0].digest).unlink()
    with pytest.raises(EngineError, match=r"lacks 1 of the image's layers.*\n.*invoke build"):
        engine.deliver(image, store, name)


def test_damaged_layer_never_becomes_an_image(
    engine: Engine, store: Store, name: str, base_layer: ImageLayer
) -> None:
    """A blob that isn't what its digest says is refused by the engine, in words."""
    bad = add_layer(store, {"bad": os.urandom(64)})
    blob = store.blob(bad.digest)
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes().replace(b"bad", b"BAD"))
    image = make_image(base_layer, bad)
    with pytest.raises(EngineError):
        engine.deliver(image, store, name)
    assert engine.image_id(name) is None


def test_cancelling_leaves_nothing(engine: Engine, store: Store, name: str, base_layer: ImageLayer) -> None:
    """Ctrl-C while layers are on their way: no image, no name, and the registry is gone."""
    image = make_image(base_layer, add_layer(store, {"big": os.urandom(32 << 20)}))

    class Impatient(Task):
        def advance(self, amount: int = 1) -> None:
            raise KeyboardInterrupt

    class Cancelled(Progress):
        def task(self, text: str, total: int | None = None, *, unit: str = "bytes"):
            import contextlib

            return contextlib.nullcontext(Impatient())

    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        engine.deliver(image, store, name, Cancelled())
    assert engine.image_id(name) is None
    assert threading.active_count() <= threads + 1  # a cut transfer may be unwinding still
    engine.deliver(image, store, name)  # and the next try is whole
    assert engine.image_id(name) == image.id


def test_loopback_serves_only_its_own_name(image: Image, store: Store) -> None:
    """The registry answers by the OCI spec, with ranges, and says 404 to every other name and to `..`."""
    import httpx

    with loopback.serve(image, store) as registry, httpx.Client() as http:
        host, _, repository = registry.repository.partition("/")
        url = f"http://{host}/v2/{repository}"
        assert http.get(f"http://{host}/v2/").status_code == 200
        manifest = http.get(f"{url}/manifests/image")
        assert manifest.content == image.manifest
        assert manifest.headers["docker-content-digest"] == image.digest
        digest = image.layers[0].digest
        assert int(http.head(f"{url}/blobs/{digest}").headers["content-length"]) == image.layers[0].size
        rest = http.get(f"{url}/blobs/{digest}", headers={"Range": "bytes=100-"})
        assert rest.status_code == 206
        assert rest.content == store.blob(digest).read_bytes()[100:]
        for path in ("/", "/v2/other/manifests/image", f"/v2/{repository}/blobs/../../../etc/passwd"):
            assert http.get(f"http://{host}{path}").status_code == 404
        assert http.post(f"{url}/blobs/uploads/").status_code == 501


def test_archive_is_a_layout_and_a_docker_archive(image: Image, store: Store, tmp_path: Path) -> None:
    """The `load` stream is a tar that names config and layers in both formats."""
    import tarfile

    path = tmp_path / "image.tar"
    path.write_bytes(b"".join(archive.docker_archive(image, store, "a/b:c", Task())))
    with tarfile.open(path) as tar:
        (entry,) = json.load(tar.extractfile("manifest.json"))
        assert tar.extractfile(entry["Config"]).read() == image.config
        index = json.load(tar.extractfile("index.json"))
        digest = index["manifests"][0]["digest"]
        assert tar.extractfile(f"blobs/{digest.replace(':', '/')}").read() == image.manifest
        assert tar.getmember(entry["Layers"][0]).size == image.layers[0].size
