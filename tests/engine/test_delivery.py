"""An image gets into the engine whole, quickly, under its name, and leaves nothing else there."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from lockstep.engine import Engine, archive, head_start, loading, loopback
from lockstep.engine.delivery import Road, deliver, engine_id
from lockstep.engine.owner import LABEL, this_process
from lockstep.errors import DamagedError, EngineError
from lockstep.image import LOCK_HASH, Image, ImageLayer
from lockstep.image.store import Store
from lockstep.progress import SILENT, Progress, Task
from tests.engine.conftest import add_layer, make_image

pytestmark = pytest.mark.engine


def names(engine: Engine, image: Image) -> tuple[list[str], list[str]]:
    """Return an image's tags and digests in the engine."""
    told = engine.api.inspect_image(engine_id(engine.api, image))
    return told["RepoTags"], [x for x in told["RepoDigests"] if not x.startswith("lockstep-test/")]


@pytest.mark.parametrize("road", ["layers", "pull", "whole"])
def test_every_road_gives_the_images_id_and_one_name(
    engine: Engine, image: Image, store: Store, name: str, road: Road
) -> None:
    """After a delivery, the engine has the very image, called only what it was to be called."""
    told = deliver(engine.api, image, store, name, SILENT, lambda: road)
    assert told.road == road
    assert told.layers_new + told.layers_reused == 1
    assert engine.image_id(name) == engine_id(engine.api, image) == told.image_id
    assert names(engine, image) == ([name], [])
    assert steps(engine) == set()


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


@pytest.mark.parametrize("road", ["layers", "pull"])
def test_only_new_layers_travel(
    engine: Engine,
    store: Store,
    name: str,
    base_layer: ImageLayer,
    road: Road,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second image on the same layers takes the new one only, and the name moves to it."""
    if road == "layers":
        only_layers(engine)
    image = make_image(base_layer, Labels={LOCK_HASH: os.urandom(8).hex()})
    deliver(engine.api, image, store, name, SILENT, lambda: road)
    sent = count_sent(engine, monkeypatch)
    more = make_image(base_layer, add_layer(store, {"hello": os.urandom(64)}))
    told = deliver(engine.api, more, store, name, SILENT, lambda: road)
    assert (told.layers_new, told.layers_reused) == (1, 1)
    assert sent[0] < 50_000 < base_layer.size
    assert engine.image_id(name) == engine_id(engine.api, more)
    before = engine_id(engine.api, image)
    assert before is not None  # the one before stays until `clean`
    engine.remove_image(before)


def count_sent(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a counter of the bytes that go through `load` from now on."""
    sent = [0]
    load = engine.api.load_image

    def counted(data: Iterator[bytes]) -> object:
        def each() -> Iterator[bytes]:
            for block in data:
                sent[0] += len(block)
                yield block

        return load(each())

    monkeypatch.setattr(engine.api, "load_image", counted)
    return sent


def only_layers(engine: Engine) -> None:
    """Skip a test that is about docker's classic store alone."""
    if engine._road() != "layers":
        pytest.skip("this engine takes whole images only")


def steps(engine: Engine) -> set[str]:
    """Return the images in the engine that are steps of this process's loading."""
    mine = [f"{loading.STEP}", f"{LABEL}={this_process()}"]
    return {told["Id"] for told in engine.api.images(filters={"label": mine})}


def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let 100 kB be a step, and a head start look often."""
    monkeypatch.setattr(loading, "STEP_BYTES", 100_000)
    monkeypatch.setattr(head_start, "PAUSE", 0.05)


def wait_for(what: Callable[[], object]) -> None:
    """Wait until `what` tells something."""
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_engine_that_lost_a_layer_gets_everything(
    engine: Engine, image: Image, store: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the engine turns out not to have what it seemed to have, all layers are sent."""
    only_layers(engine)

    def mistaken(self: loading.Loading, layers: Sequence[ImageLayer]) -> None:
        self.present = tuple(layer.diff_id for layer in layers)
        self.found = len(layers)

    fresh = make_image(add_layer(store, {"new": os.urandom(64)}))
    monkeypatch.setattr(loading.Loading, "look", mistaken)
    told = deliver(engine.api, fresh, store, name, SILENT, lambda: "layers")
    assert told.road == "whole"
    assert engine.image_id(name) == engine_id(engine.api, fresh)


def test_big_image_grows_in_steps_that_go(
    engine: Engine, store: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image over the step's size goes in step by step, each layer sent once, and no step stays."""
    only_layers(engine)
    monkeypatch.setattr(loading, "STEP_BYTES", 100_000)
    sent = count_sent(engine, monkeypatch)
    image = make_image(*(add_layer(store, {f"file{n}": os.urandom(60_000)}) for n in range(5)))
    told = engine.deliver(image, store, name)
    assert (told.road, told.layers_new) == ("layers", 5)
    assert 300_000 < sent[0] < 450_000
    assert engine.image_id(name) == engine_id(engine.api, image)
    assert steps(engine) == set()


def test_steps_of_a_killed_process_are_used_and_go(
    engine: Engine, store: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed delivery had brought in isn't sent again, and is tidied up."""
    only_layers(engine)
    monkeypatch.setattr(loading, "STEP_BYTES", 100_000)
    image = make_image(*(add_layer(store, {f"file{n}": os.urandom(60_000)}) for n in range(4)))
    boot, namespace, *_ = this_process().split("/")
    with monkeypatch.context() as patch:
        patch.setattr(loading, "this_process", lambda: f"{boot}/{namespace}/4194305/1")
        loading.Loading(engine.api, store).grow(image.layers)
        wait_for(lambda: engine.api.images(filters={"label": f"{loading.STEP}=4"}))
    told = engine.deliver(image, store, name)
    assert (told.layers_new, told.layers_reused) == (0, 4)
    left = engine.api.images(filters={"label": f"{LABEL}={boot}/{namespace}/4194305/1"})
    assert left == []


def test_head_start_brings_layers_in_while_others_are_made(
    engine: Engine, store: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers that are there go in during the block; what is delivered afterwards is the rest alone."""
    only_layers(engine)
    small_steps(monkeypatch)
    layers = [add_layer(store, {"first": os.urandom(150_000)})]
    with engine.head_start(store, lambda: list(layers)) as begun:
        wait_for(lambda: steps(engine))
        layers.append(add_layer(store, {"last": os.urandom(1000)}))
        sent = count_sent(engine, monkeypatch)
        told = engine.deliver(make_image(*layers), store, name, begun=begun)
    assert (told.layers_new, told.layers_reused) == (2, 0)
    assert sent[0] < 50_000
    assert steps(engine) == set()


def test_a_head_start_that_failed_is_made_good(
    engine: Engine, store: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that the engine refused during the block costs nothing but time: the delivery sends it again."""
    only_layers(engine)
    small_steps(monkeypatch)
    load, refused = engine.api.load_image, threading.Event()

    def first_refused(data: Iterator[bytes]) -> object:
        if refused.is_set():
            return load(data)
        refused.set()
        return iter([{"error": "not this time"}])

    monkeypatch.setattr(engine.api, "load_image", first_refused)
    layers = [add_layer(store, {f"file{n}": os.urandom(150_000)}) for n in range(3)]
    with engine.head_start(store, lambda: layers) as begun:
        assert refused.wait(20)
        image = make_image(*layers)
        assert engine.deliver(image, store, name, begun=begun).layers_new == 3
    assert engine.image_id(name) == engine_id(engine.api, image)
    assert steps(engine) == set()


def test_two_steps_are_under_way_at_once_and_the_second_waits(
    engine: Engine, store: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the engine unpacks a step, all of the next but its end has been sent."""
    only_layers(engine)
    monkeypatch.setattr(loading, "STEP_BYTES", 100_000)
    load, sent = engine.api.load_image, threading.Event()
    ended: list[str] = []

    def watched(data: Iterator[bytes]) -> Iterator[object]:
        number = len(ended)
        ended.append("")

        def blocks() -> Iterator[bytes]:
            for block in data:
                yield block
                if number == 1 and len(block) > 10_000:
                    sent.set()
            ended[number] = "sent"

        events = list(load(blocks()))
        if number == 0:
            assert sent.wait(20)
            assert ended == ["sent", ""]
        return iter(events)

    monkeypatch.setattr(engine.api, "load_image", watched)
    image = make_image(*(add_layer(store, {f"file{n}": os.urandom(120_000)}) for n in range(3)))
    assert engine.deliver(image, store, name).layers_new == 3


def test_head_start_of_a_failed_build_leaves_nothing(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When making layers fails, the engine is as it was; a head start that fails itself is no error."""
    only_layers(engine)
    small_steps(monkeypatch)
    layers = [add_layer(store, {"first": os.urandom(150_000)})]

    def build() -> None:
        with engine.head_start(store, lambda: layers):
            time.sleep(0.6)
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - any error would do
        build()
    assert steps(engine) == set()
    store.blob(layers[0].digest).unlink()
    with engine.head_start(store, lambda: layers):
        time.sleep(0.3)


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
    told = deliver(engine.api, image, store, name, Listener(), lambda: "pull")
    assert told.road == "whole"
    assert engine.image_id(name) == engine_id(engine.api, image)
    assert any("loopback" in line for line in said)


def test_missing_layer_is_an_error_with_a_remedy(
    engine: Engine, image: Image, store: Store, name: str
) -> None:
    """A store without the layer says so before the engine is asked."""
    store.blob(image.layers[0].digest).unlink()
    with pytest.raises(EngineError, match=r"lacks 1 of the image's layers.*\n.*invoke build"):
        engine.deliver(image, store, name)


@pytest.mark.parametrize("road", ["layers", "pull", "whole"])
@pytest.mark.parametrize("at", [3, 600])
def test_damaged_layer_never_becomes_an_image(
    engine: Engine, store: Store, name: str, base_layer: ImageLayer, road: Road, at: int
) -> None:
    """A bit in a blob's header or content: the engine refuses it, the store puts it aside; then all is well."""
    bad = add_layer(store, {"bad": os.urandom(1000)})
    blob = store.blob(bad.digest)
    content = blob.read_bytes()
    blob.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    image = make_image(base_layer, bad)
    with pytest.raises(DamagedError, match=bad.digest[7:]):
        deliver(engine.api, image, store, name, SILENT, lambda: road)
    assert engine.image_id(name) is None
    assert not store.has(bad.digest)
    store.put(content)
    deliver(engine.api, image, store, name, SILENT, lambda: road)
    assert engine.image_id(name) is not None


@pytest.mark.parametrize("size", [0, 700])
def test_a_layer_of_another_size_is_never_sent(
    engine: Engine, store: Store, name: str, base_layer: ImageLayer, size: int
) -> None:
    """An empty or truncated blob is found before the engine is asked."""
    bad = add_layer(store, {"bad": os.urandom(1000)})
    os.truncate(store.blob(bad.digest), size)
    with pytest.raises(DamagedError, match=f"found {size}"):
        engine.deliver(make_image(base_layer, bad), store, name)


@pytest.mark.parametrize("road", ["layers", "pull", "whole"])
def test_cancelling_leaves_nothing(
    engine: Engine, store: Store, name: str, base_layer: ImageLayer, road: Road
) -> None:
    """Ctrl-C while layers are on their way: the name isn't given, no step stays, the registry is gone."""
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
        deliver(engine.api, image, store, name, Cancelled(), lambda: road)
    assert engine.image_id(name) is None
    assert steps(engine) == set()
    assert threading.active_count() <= threads + 1  # a cut transfer may be unwinding still
    engine.deliver(image, store, name)  # and the next try is whole
    assert engine.image_id(name) == engine_id(engine.api, image)


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
        address, _, port = host.partition(":")
        with socket.create_connection((address, int(port))) as greeting:
            greeting.sendall(b"\x16\x03\x01\x00\x05hello\n")  # as TLS begins; containerd looks for HTTP/
            assert greeting.recv(5) == b"HTTP/"


def test_archive_is_a_layout_and_a_docker_archive(image: Image, store: Store, tmp_path: Path) -> None:
    """The `load` stream is a tar that names config and layers in both formats."""
    import tarfile

    path = tmp_path / "image.tar"
    path.write_bytes(b"".join(archive.docker_archive(image, store, reference="a/b:c")))
    with tarfile.open(path) as tar:
        (entry,) = json.load(tar.extractfile("manifest.json"))
        assert tar.extractfile(entry["Config"]).read() == image.config
        index = json.load(tar.extractfile("index.json"))
        digest = index["manifests"][0]["digest"]
        assert tar.extractfile(f"blobs/{digest.replace(':', '/')}").read() == image.manifest
        assert tar.getmember(entry["Layers"][0]).size == image.layers[0].size


@pytest.mark.parametrize("host", ["localhost:5999/", "registry.example/", ""])
def test_an_image_whose_name_has_a_registry_is_called_so(
    engine: Engine, image: Image, store: Store, host: str
) -> None:
    """A port is no tag, on every road."""
    name = f"{host}lockstep-test/{os.urandom(6).hex()}"
    try:
        for road in ("whole", "layers"):
            deliver(engine.api, image, store, f"{name}:latest", SILENT, lambda road=road: road)  # type: ignore[misc]
            assert engine.image_id(f"{name}:latest") == engine_id(engine.api, image)
            engine.remove_image(f"{name}:latest")
    finally:
        engine.remove_image(f"{name}:latest")
