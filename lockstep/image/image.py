"""Image: an ordered list of layers and a config; its ID follows from the layers' diff IDs.

OCI image spec, "Image Configuration" and "Image Manifest". What is said of an image can be read back
from its config alone: the history names each layer's packages, the labels name lock and spec.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lockstep.errors import PackageError
from lockstep.image.layer import PREFIX, Layer

if TYPE_CHECKING:
    from lockstep.lock import Lock

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
CREATED = "1980-01-01T00:00:00Z"  # layer.EPOCH; a real clock would give each build an ID of its own

BASE_DIGEST = "org.opencontainers.image.base.digest"
LOCK_HASH = "io.lockstep.lock.hash"
SPEC_HASH = "io.lockstep.spec.hash"
CREATED_BY = "lockstep"
MAX_LAYERS = 127  # containerd's and overlayfs' limit


@dataclass(frozen=True)
class ImageLayer:
    """A layer as an image refers to it.

    `digest` and `size` are of the blob in the store: compressed as its registry has it for a base layer,
    uncompressed (digest = diff_id) for ours. `packages` is empty for base layers.
    """

    diff_id: str
    digest: str
    media_type: str
    size: int
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Image:
    """A config's bytes and the layers it stands on, base layers first, the first to be unpacked first."""

    config: bytes
    layers: tuple[ImageLayer, ...]

    @property
    def id(self) -> str:
        """Return the image ID: "sha256:<hex>" of the config, the same in any registry and engine."""
        return digest_of(self.config)

    @property
    def manifest(self) -> bytes:
        """Return the OCI manifest that refers to the blobs in the store."""
        layers = [{"mediaType": x.media_type, "digest": x.digest, "size": x.size} for x in self.layers]
        config = {"mediaType": CONFIG, "digest": self.id, "size": len(self.config)}
        return _json({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers})

    @property
    def digest(self) -> str:
        """Return the manifest's digest, "sha256:<hex>"."""
        return digest_of(self.manifest)

    @property
    def size(self) -> int:
        """Return the bytes of all blobs that the manifest refers to, config included."""
        return len(self.config) + sum(x.size for x in self.layers)

    @property
    def labels(self) -> dict[str, str]:
        """Return the config's labels."""
        return dict(json.loads(self.config).get("config", {}).get("Labels") or {})


def digest_of(data: bytes) -> str:
    """Return "sha256:<hex>" of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def read_image(manifest: bytes, config: bytes) -> Image:
    """Read an image from its manifest and config, as a registry or a layout has them.

    Docker's media types become their OCI twins (the bytes are the same). Raises PackageError for a
    manifest that doesn't fit its config or whose layers can't be had from the registry.
    """
    told = json.loads(manifest)
    diff_ids = json.loads(config)["rootfs"]["diff_ids"]
    if digest_of(config) != told["config"]["digest"] or len(diff_ids) != len(told["layers"]):
        raise PackageError("The base image's config isn't the one that its manifest names.", "Lock again.")
    ours = _packages_by_layer(config, len(diff_ids))
    layers = []
    for diff_id, layer, packages in zip(diff_ids, told["layers"], ours, strict=True):
        media_type = _DOCKER.get(layer["mediaType"], layer["mediaType"])
        if not media_type.startswith(LAYER):
            raise PackageError(
                f"The base image's layer {layer['digest']} is of type {media_type}: no engine gets it so.",
                "Choose another base image in invoke.yaml.",
            )
        layers.append(ImageLayer(diff_id, layer["digest"], media_type, layer["size"], packages))
    return Image(config, tuple(layers))


def compose(base: Image, layers: Sequence[Layer], lock: Lock) -> Image:
    """Put an environment's layers on a base image, base layers first, then ours in the order given.

    The config keeps what the base's says, with PATH, CONDA_PREFIX and the spec's variables added,
    no entrypoint, and bash as the command. Everything in it follows from the base and the lock.
    """
    told: dict[str, Any] = json.loads(base.config)
    if len(base.layers) + len(layers) > MAX_LAYERS:
        raise PackageError(
            f"The image would have {len(base.layers) + len(layers)} layers; engines take {MAX_LAYERS}.",
            "Choose a base image with fewer layers.",
        )
    run = {
        k: v for k, v in (told.get("config") or {}).items() if k not in ("Entrypoint", "Cmd", "ArgsEscaped")
    }
    config = {
        "architecture": told.get("architecture", "amd64"),
        "os": told.get("os", "linux"),
        "created": CREATED,
        "config": {
            **run,
            "Cmd": ["/bin/bash"],
            "Env": _environment(run.get("Env") or [], lock),
            "Labels": {**(run.get("Labels") or {}), **_labels(lock)},
        },
        "rootfs": {
            "type": "layers",
            "diff_ids": [*(x.diff_id for x in base.layers), *(x.diff_id for x in layers)],
        },
        "history": [*_base_history(told, len(base.layers)), *(_history(x) for x in layers)],
    }
    if told.get("variant"):
        config["variant"] = told["variant"]
    return Image(_json(config), (*base.layers, *map(as_image_layer, layers)))


def as_image_layer(layer: Layer) -> ImageLayer:
    """Return a layer of ours as images refer to it: uncompressed, its digest is its diff ID."""
    return ImageLayer(layer.diff_id, layer.diff_id, LAYER, layer.size, layer.packages)


@dataclass(frozen=True)
class Difference:
    """What became of one layer between two images: "added" or "removed", with its size and packages."""

    change: str
    layer: ImageLayer


@dataclass(frozen=True)
class PackageChange:
    """A package whose version differs between two images; None where it isn't there."""

    name: str
    before: str | None
    after: str | None


def compare_layers(before: Image, after: Image) -> tuple[Difference, ...]:
    """Return the layers that only one of two images has, removed ones first, each in its image's order."""
    old, new = {x.diff_id for x in before.layers}, {x.diff_id for x in after.layers}
    gone = [Difference("removed", x) for x in before.layers if x.diff_id not in new]
    return (*gone, *(Difference("added", x) for x in after.layers if x.diff_id not in old))


def compare_packages(before: Image, after: Image) -> tuple[PackageChange, ...]:
    """Return the packages that differ in version between two images, sorted by name."""
    old, new = _versions(before), _versions(after)
    names = sorted(old.keys() | new.keys())
    return tuple(PackageChange(x, old.get(x), new.get(x)) for x in names if old.get(x) != new.get(x))


def _versions(image: Image) -> dict[str, str]:
    pairs = (package.rpartition(" ") for layer in image.layers for package in layer.packages)
    return {name: version for name, _, version in pairs}


def _environment(base: Sequence[str], lock: Lock) -> list[str]:
    """Return "NAME=value" lines: the base's, then ours, later ones winning."""
    said = dict(x.partition("=")[::2] for x in base)
    path = said.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    said["PATH"] = f"{PREFIX}/bin:{path}"
    said["CONDA_PREFIX"] = PREFIX
    said["CONDA_DEFAULT_ENV"] = PREFIX.rpartition("/")[2]
    said.update(lock.variables)
    return [f"{name}={value}" for name, value in said.items()]


def _labels(lock: Lock) -> Mapping[str, str]:
    """Return OCI annotation names where there is one (OCI image spec, "Pre-Defined Annotation Keys")."""
    labels = {
        BASE_DIGEST: lock.base.digest,
        "org.opencontainers.image.base.name": lock.base.reference,
        "org.opencontainers.image.version": lock.hash,
        LOCK_HASH: lock.hash,
        SPEC_HASH: lock.spec_hash,
    }
    if lock.source_revision:
        labels["org.opencontainers.image.revision"] = lock.source_revision
    return dict(sorted(labels.items()))


def _history(layer: Layer) -> dict[str, str]:
    return {"created": CREATED, "created_by": CREATED_BY, "comment": ", ".join(layer.packages)}


def _base_history(told: Mapping[str, Any], layers: int) -> list[dict[str, Any]]:
    """Return the base's history, or one that fits its layers if it tells none or a wrong one."""
    history: list[dict[str, Any]] = list(told.get("history") or [])
    if sum(not x.get("empty_layer") for x in history) == layers:
        return history
    return [{"created": CREATED, "created_by": "base image"}] * layers


def _packages_by_layer(config: bytes, layers: int) -> list[tuple[str, ...]]:
    history = [x for x in json.loads(config).get("history") or [] if not x.get("empty_layer")]
    if len(history) != layers:
        return [()] * layers
    return [
        tuple(x.get("comment", "").split(", ")) if x.get("created_by") == CREATED_BY else () for x in history
    ]


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


_DROPPED = ("Entrypoint", "Cmd", "ArgsEscaped")
_DOCKER = {
    "application/vnd.docker.image.rootfs.diff.tar": LAYER,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": f"{LAYER}+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": f"{LAYER}+zstd",
}
