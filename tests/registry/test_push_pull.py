"""Images go to a real registry and base images come from it, whole, once, and with the right credentials."""

from __future__ import annotations

import gzip
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from lockstep.errors import DamagedError, IntegrityError, RegistryError, UnreachableError
from lockstep.home import Home
from lockstep.image import Image, digest_of
from lockstep.image.store import Store
from lockstep.progress import Progress, Task
from lockstep.registry import pull_base, push, resolve
from tests.registry.conftest import PASSWORD, Registry, free_port, layer, log_in, make_image


@pytest.mark.parametrize("which", [0, 1])
def test_a_damaged_layer_is_never_pushed(registry: Registry, image: Image, store: Store, which: int) -> None:
    """A bit in a base's blob or in one of ours: the registry keeps no image, the store no such blob."""
    blob = store.blob(image.layers[which].digest)
    content = blob.read_bytes()
    blob.write_bytes(content[:600] + bytes([content[600] ^ 1]) + content[601:])
    with pytest.raises(DamagedError, match=blob.name):
        push(image, store, f"{registry.host}/team/env:v1")
    assert not blob.exists()
    assert httpx.get(f"http://{registry.host}/v2/team/env/manifests/v1", trust_env=False).status_code == 404
    store.put(content)
    told = push(image, store, f"{registry.host}/team/env:v1")
    for layer_, entry in zip(image.layers, json.loads(registry.blob(told.digest))["layers"], strict=True):
        assert digest_of(gzip.decompress(registry.blob(entry["digest"]))) == layer_.diff_id


def test_pushed_image_is_the_same_image(registry: Registry, image: Image, store: Store) -> None:
    """The registry's manifest names the very config, and layers that unpack to the very diff IDs."""
    told = push(image, store, f"{registry.host}/team/env:v1")
    assert told.image_id == image.id
    assert (told.blobs_sent, told.blobs_reused) == (4, 0)
    manifest = json.loads(registry.blob(told.digest))
    assert registry.blob(manifest["config"]["digest"]) == image.config
    for layer_, entry in zip(image.layers, manifest["layers"], strict=True):
        blob = registry.blob(entry["digest"])
        assert entry["mediaType"].endswith("+gzip")
        assert entry["size"] == len(blob)
        import hashlib

        assert f"sha256:{hashlib.sha256(gzip.decompress(blob)).hexdigest()}" == layer_.diff_id
    assert manifest["layers"][0]["digest"] == image.layers[0].digest  # base layers aren't rewritten


def test_second_push_sends_nothing(registry: Registry, image: Image, store: Store) -> None:
    """What is there is skipped, without compressing it again; of another image only the new layer goes."""
    reference = f"{registry.host}/team/env:v1"
    first = push(image, store, reference)
    again = push(image, store, reference)
    assert (again.sent, again.blobs_sent, again.digest) == (0, 0, first.digest)
    more = make_image(*image.layers, layer(store, size=5000))
    told = push(more, store, reference)
    assert told.blobs_sent == 2  # the layer and the config
    assert told.sent < 10_000


def test_other_repository_takes_layers_from_the_first(registry: Registry, image: Image, store: Store) -> None:
    """A push to a second repository of the registry mounts the layers there are."""
    push(image, store, f"{registry.host}/one:v1")
    told = push(image, store, f"{registry.host}/two:v1")
    assert told.sent == 0


def test_skopeo_accepts_it(registry: Registry, image: Image, store: Store, tmp_path: Path) -> None:
    """Another tool copies the image out of the registry, verifying every digest, with the same image ID."""
    if shutil.which("skopeo") is None:
        pytest.skip("needs skopeo")
    push(image, store, f"{registry.host}/env:v1")
    subprocess.run(
        [
            *("skopeo", "--insecure-policy", "copy", "--src-tls-verify=false"),
            *(f"docker://{registry.host}/env:v1", f"dir:{tmp_path}/copy"),
        ],
        check=True,
        capture_output=True,
    )
    manifest = json.loads((tmp_path / "copy" / "manifest.json").read_text())
    assert manifest["config"]["digest"] == image.id


def test_account_is_used_and_its_absence_is_said(
    guarded: Registry, image: Image, store: Store, docker_config: Path
) -> None:
    """With `docker login`'s credentials it works; without or with wrong ones the error names the command."""
    reference = f"{guarded.host}/team/env:v1"
    for prepare in (lambda: None, lambda: log_in(docker_config, guarded.host, password="wrong")):
        prepare()
        with pytest.raises(
            RegistryError, match=rf"refused \(401\)(.|\n)*docker login {guarded.host}"
        ) as told:
            push(image, store, reference)
        assert "wrong" not in str(told.value)
    log_in(docker_config, guarded.host)
    assert push(image, store, reference).blobs_sent == 4
    assert resolve(reference) == push(image, store, reference).digest


def test_credential_helper_is_asked(
    guarded: Registry,
    image: Image,
    store: Store,
    docker_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Credentials that a helper program keeps (`credHelpers`, `credsStore`) are found."""
    helper = tmp_path / "bin" / "docker-credential-mine"
    helper.parent.mkdir()
    helper.write_text(f'#!/bin/sh\necho \'{{"Username": "me", "Secret": "{PASSWORD}"}}\'\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{helper.parent}:/usr/bin:/bin")
    docker_config.write_text(json.dumps({"credHelpers": {guarded.host: "mine"}}))
    assert push(image, store, f"{guarded.host}/env:v1").blobs_sent == 4
    docker_config.write_text(json.dumps({"credsStore": "missing"}))
    with pytest.raises(RegistryError, match="docker login"):
        resolve(f"{guarded.host}/env:v1")


def test_base_comes_whole_and_once(registry: Registry, image: Image, store: Store, tmp_path: Path) -> None:
    """What was pushed is pulled into another store with the same ID; the second time nothing is asked for."""
    reference = f"{registry.host}/base:12"
    told = push(image, store, reference)
    assert resolve(reference) == told.digest
    other = Store(Home(tmp_path / "other"))
    base = pull_base(reference, told.digest, other)
    assert base.id == image.id
    assert [x.diff_id for x in base.layers] == [x.diff_id for x in image.layers]
    assert all(other.has(x.digest) for x in base.layers)


def test_index_gives_the_platforms_manifest(registry: Registry, image: Image, store: Store) -> None:
    """Of an image for several platforms, the one for linux/amd64 is taken; for none, that is said."""
    told = push(image, store, f"{registry.host}/base:amd64")
    other = push(make_image(layer(store)), store, f"{registry.host}/base:arm64")
    media = "application/vnd.docker.distribution.manifest.list.v2+json"
    for tag, entries in [("both", [(other, "arm64"), (told, "amd64")]), ("one", [(other, "arm64")])]:
        index = {
            "schemaVersion": 2,
            "mediaType": media,
            "manifests": [
                {
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": result.digest,
                    "size": len(registry.blob(result.digest)),
                    "platform": {"os": "linux", "architecture": architecture},
                }
                for result, architecture in entries
            ],
        }
        url = f"http://{registry.host}/v2/base/manifests/{tag}"
        sent = httpx.put(url, content=json.dumps(index), headers={"Content-Type": media})
        assert sent.status_code == 201, sent.text
    assert resolve(f"{registry.host}/base:both") == told.digest
    with pytest.raises(RegistryError, match="no image for linux/amd64"):
        resolve(f"{registry.host}/base:one")


def test_missing_image_is_said(registry: Registry) -> None:
    """A repository or tag that isn't there is named."""
    with pytest.raises(RegistryError, match=r"has no nothing:here(.|\n)*spelled right") as told:
        resolve(f"{registry.host}/nothing:here")
    assert not isinstance(told.value, UnreachableError)


def test_registry_that_is_not_there_is_unreachable() -> None:
    """No registry at the address, and a host that doesn't exist, are told apart from a refusal, at once."""
    with pytest.raises(UnreachableError, match="can't be reached"):
        resolve(f"127.0.0.1:{free_port()}/x")
    with pytest.raises(UnreachableError, match="can't be reached"):
        resolve("registry.invalid/x")


def test_what_is_no_registry_is_said(registry: Registry, tmp_path: Path) -> None:
    """A page that answers 200 with something else is no manifest; a TLS host without TLS is told as such."""
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>please log in</html>")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        with pytest.raises(RegistryError, match="no image manifest"):
            resolve(f"127.0.0.1:{server.server_port}/x")
        server.shutdown()
        thread.join()


def test_damaged_layer_is_refused(registry: Registry, image: Image, store: Store, tmp_path: Path) -> None:
    """A registry whose blob isn't what its digest says gives an error, and nothing gets into the store."""
    reference = f"{registry.host}/base:12"
    told = push(image, store, reference)
    victim = image.layers[0].digest
    hex_ = victim.removeprefix("sha256:")
    path = registry.folder / "data/docker/registry/v2/blobs/sha256" / hex_[:2] / hex_ / "data"
    path.write_bytes(b"X" * path.stat().st_size)
    other = Store(Home(tmp_path / "other"))
    with pytest.raises(IntegrityError, match="for the layer"):
        pull_base(reference, told.digest, other)
    assert not other.has(victim)


@contextmanager
def cutting_proxy(host: str, after: int, times: int) -> Iterator[tuple[str, list[int]]]:
    """A way to a registry that breaks: each of the first `times` connections ends after `after` bytes."""
    upstream = (host.partition(":")[0], int(host.partition(":")[2]))
    passed: list[int] = []
    server = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket, limit: float, at: int) -> None:
        try:
            while data := source.recv(16384):
                passed[at] += len(data)
                if passed[at] > limit:
                    break
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            at = len(passed)
            passed.append(0)
            limit = after if at < times else float("inf")
            behind = socket.create_connection(upstream)
            pair = [
                threading.Thread(target=pump, args=(client, behind, limit, at), daemon=True),
                threading.Thread(target=pump, args=(behind, client, limit, at), daemon=True),
            ]
            for thread in pair:
                thread.start()

            def close(pair: list[threading.Thread] = pair, ends: tuple = (client, behind)) -> None:
                for thread in pair:
                    thread.join()
                for end in ends:
                    end.close()

            threading.Thread(target=close, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}", passed
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def test_cut_off_pull_goes_on_where_it_stopped(registry: Registry, store: Store, tmp_path: Path) -> None:
    """When the connection breaks in a layer, the rest alone is asked for."""
    image = make_image(layer(store, size=4_000_000))
    told = push(image, store, f"{registry.host}/base:12")
    other = Store(Home(tmp_path / "other"))
    with cutting_proxy(registry.host, 1_500_000, 2) as (host, passed):
        assert pull_base(f"{host}/base:12", told.digest, other).id == image.id
    assert sum(passed) < 5_500_000


def test_cut_off_push_is_tried_again(registry: Registry, store: Store) -> None:
    """When the connection breaks in a layer, the layer is sent again."""
    image = make_image(layer(store, size=4_000_000))
    with cutting_proxy(registry.host, 1_500_000, 2) as (host, _):
        told = push(image, store, f"{host}/env:v1")
    assert told.image_id == image.id
    assert json.loads(registry.blob(told.digest))["config"]["digest"] == image.id


def test_ctrl_c_ends_a_push(registry: Registry, store: Store) -> None:
    """Ctrl-C while a layer is on its way ends the push; the next one completes it."""
    image = make_image(layer(store, size=3_000_000))
    reference = f"{registry.host}/env:v1"

    class Impatient(Progress):
        @contextmanager
        def task(self, text: str, total: int | None = None, *, unit: str = "bytes") -> Iterator[Task]:
            yield Stop()

    class Stop(Task):
        def advance(self, amount: int = 1) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        push(image, store, reference, Impatient())
    with pytest.raises(RegistryError, match="has no env:v1"):
        resolve(reference)
    assert push(image, store, reference).image_id == image.id
