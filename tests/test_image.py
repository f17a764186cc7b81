"""Image: what a config says, what it follows from, and what differs between two."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lockstep.errors import PackageError
from lockstep.home import Home
from lockstep.image import (
    MAX_LAYERS,
    Image,
    ImageLayer,
    compare_layers,
    compare_packages,
    compose,
    digest_of,
    read_image,
)
from lockstep.image.layer import Layer
from lockstep.image.store import Store
from tests.packages import base_image, lock_of, wheel

LOCK = lock_of(wheel("one"), variables=(("OMP_NUM_THREADS", "4"), ("PATH_LIKE", "a:b")))
LAYERS = (
    Layer("sha256:" + "a" * 64, 10_000, ("torch 2.14.1",)),
    Layer("sha256:" + "b" * 64, 2_000, ("jinja2 3.1.6", "sympy 1.14.0")),
)


@pytest.fixture
def base(tmp_path: Path) -> Image:
    """A base image with one compressed layer."""
    return base_image(Store(Home(tmp_path)))


def config(image: Image) -> dict[str, Any]:
    """Return an image's config, parsed."""
    told: dict[str, Any] = json.loads(image.config)
    return told


def test_base_layers_come_first_and_untouched(base: Image) -> None:
    """The manifest has the base's blobs as its registry has them, then ours, and the config the diff IDs."""
    image = compose(base, LAYERS, LOCK)
    assert image.layers[: len(base.layers)] == base.layers
    assert config(image)["rootfs"]["diff_ids"] == [x.diff_id for x in base.layers] + [
        x.diff_id for x in LAYERS
    ]
    manifest = json.loads(image.manifest)
    assert manifest["config"]["digest"] == image.id == digest_of(image.config)
    assert [x["digest"] for x in manifest["layers"]] == [x.digest for x in image.layers]
    assert manifest["layers"][0]["mediaType"].endswith("+gzip")
    assert manifest["layers"][-1]["mediaType"] == "application/vnd.oci.image.layer.v1.tar"
    assert image.size == len(image.config) + sum(x["size"] for x in manifest["layers"])


def test_the_environment_is_in_the_config(base: Image) -> None:
    """PATH, CONDA_PREFIX and the spec's variables need no entrypoint: every process finds them."""
    told = config(compose(base, LAYERS, LOCK))["config"]
    environment = dict(x.split("=", 1) for x in told["Env"])
    assert environment["PATH"].split(":")[0] == "/opt/env/bin"
    assert "/usr/bin" in environment["PATH"]
    assert environment["CONDA_PREFIX"] == "/opt/env"
    assert environment["CONDA_DEFAULT_ENV"] == "env"
    assert (environment["OMP_NUM_THREADS"], environment["PATH_LIKE"]) == ("4", "a:b")
    assert environment["FROM_BASE"] == "kept"
    assert told["Cmd"] == ["/bin/bash"]
    assert "Entrypoint" not in told


def test_labels_name_lock_spec_and_revision(base: Image) -> None:
    """Whoever has the image finds what it was made from."""
    labels = compose(base, LAYERS, replace(LOCK, source_revision="c0ffee")).labels
    assert labels["io.lockstep.lock.hash"] == replace(LOCK, source_revision="c0ffee").hash
    assert labels["io.lockstep.spec.hash"] == LOCK.spec_hash
    assert labels["org.opencontainers.image.revision"] == "c0ffee"
    assert labels["org.opencontainers.image.base.digest"] == LOCK.base.digest
    assert labels["org.opencontainers.image.base.name"] == "debian:12-slim"
    assert labels["from.base"] == "kept"
    assert "org.opencontainers.image.revision" not in compose(base, LAYERS, LOCK).labels


def test_no_clock_is_in_it(base: Image) -> None:
    """All that tells a time is the fixed one, so the ID follows from base, layers and lock."""
    told = config(compose(base, LAYERS, LOCK))
    assert told["created"] == "1980-01-01T00:00:00Z"
    assert {x["created"] for x in told["history"][-2:]} == {told["created"]}
    assert compose(base, LAYERS, LOCK) == compose(base, LAYERS, LOCK)
    assert compose(base, LAYERS, replace(LOCK, variables=())).id != compose(base, LAYERS, LOCK).id
    assert compose(base, LAYERS[::-1], LOCK).id != compose(base, LAYERS, LOCK).id


def test_history_fits_the_layers(base: Image) -> None:
    """There is one entry of history for each layer, as tools expect, also for a base that tells none."""
    silent = json.loads(base.config)
    del silent["history"]
    for one in (base, replace(base, config=json.dumps(silent).encode())):
        history = [x for x in config(compose(one, LAYERS, LOCK))["history"] if not x.get("empty_layer")]
        assert len(history) == len(base.layers) + len(LAYERS)


def test_an_image_is_read_from_its_manifest_and_config(base: Image) -> None:
    """Packages and sizes come back from the config alone: also from a registry."""
    image = compose(base, LAYERS, LOCK)
    assert read_image(image.manifest, image.config) == image


def test_docker_types_become_their_oci_twins(base: Image) -> None:
    """A base that a registry serves in Docker's own format is the same bytes under another name."""
    manifest = json.loads(base.manifest)
    for layer in manifest["layers"]:
        layer["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    assert read_image(json.dumps(manifest).encode(), base.config) == base


def test_a_foreign_layer_is_refused(base: Image) -> None:
    """A layer that registries don't hold can't be delivered."""
    manifest = json.loads(base.manifest)
    manifest["layers"][0]["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    with pytest.raises(PackageError, match="foreign"):
        read_image(json.dumps(manifest).encode(), base.config)


def test_another_config_than_the_manifests_is_refused(base: Image) -> None:
    """The manifest names its config by digest."""
    with pytest.raises(PackageError, match="isn't the one"):
        read_image(base.manifest, base.config.replace(b"amd64", b"arm64"))


def test_too_many_layers_are_refused(base: Image) -> None:
    """Engines would fail later, with fewer words."""
    layers = [Layer(f"sha256:{x:064}", 1, ()) for x in range(MAX_LAYERS)]
    with pytest.raises(PackageError, match="128 layers"):
        compose(base, layers, LOCK)


def test_what_differs_is_told(base: Image) -> None:
    """Layers that came and went, and the packages whose version moved."""
    newer = Layer("sha256:" + "c" * 64, 3_000, ("jinja2 3.1.7", "sympy 1.14.0", "tqdm 4.0"))
    before, after = compose(base, LAYERS, LOCK), compose(base, (LAYERS[0], newer), LOCK)
    assert [(x.change, x.layer.diff_id[7]) for x in compare_layers(before, after)] == [
        ("removed", "b"),
        ("added", "c"),
    ]
    assert [(x.name, x.before, x.after) for x in compare_packages(before, after)] == [
        ("jinja2", "3.1.6", "3.1.7"),
        ("tqdm", None, "4.0"),
    ]
    assert compare_layers(before, before) == ()
    assert compare_packages(before, before) == ()


def test_layers_know_their_packages(base: Image) -> None:
    """The base's layers hold no packages of ours; ours say which they hold."""
    image = compose(base, LAYERS, LOCK)
    assert [x.packages for x in image.layers[-2:]] == [x.packages for x in LAYERS]
    assert isinstance(image.layers[0], ImageLayer)
    assert image.layers[0].packages == ()
