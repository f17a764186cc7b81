"""An image as one tar stream that every engine's `load` takes, made on the fly with flat memory.

It is two formats at once, as `docker save` writes since version 25: an OCI image layout (`oci-layout`,
`index.json`, `blobs/`), which docker's containerd store reads, and `manifest.json`, which the classic
store and Podman read.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator

from lockstep.image import MANIFEST, Image
from lockstep.layer import CHUNK, END
from lockstep.progress import Task
from lockstep.store import Store


def docker_archive(image: Image, store: Store, reference: str, task: Task) -> Iterator[bytes]:
    """Yield the tar, the image being called `reference` in it; `task` is told the bytes of layers sent."""
    layers = [f"blobs/sha256/{layer.digest.removeprefix('sha256:')}" for layer in image.layers]
    config = f"blobs/sha256/{image.id.removeprefix('sha256:')}"
    repository, _, tag = reference.rpartition(":")
    descriptor = {
        "mediaType": MANIFEST,
        "digest": image.digest,
        "size": len(image.manifest),
        "annotations": {
            "io.containerd.image.name": f"{repository}:{tag}",
            "org.opencontainers.image.ref.name": tag,
        },
    }
    yield from _file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    yield from _file("index.json", json.dumps({"schemaVersion": 2, "manifests": [descriptor]}).encode())
    yield from _file(
        "manifest.json",
        json.dumps([{"Config": config, "RepoTags": [reference], "Layers": layers}]).encode(),
    )
    yield from _file(f"blobs/sha256/{image.digest.removeprefix('sha256:')}", image.manifest)
    yield from _file(config, image.config)
    sent = set()
    for layer, path in zip(image.layers, layers, strict=True):
        if layer.digest in sent:
            continue
        sent.add(layer.digest)
        yield _header(path, layer.size)
        with store.blob(layer.digest).open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
                task.advance(len(chunk))
        yield bytes(-layer.size % 512)
    yield END


def _file(path: str, content: bytes) -> Iterator[bytes]:
    yield _header(path, len(content))
    yield content + bytes(-len(content) % 512)


def _header(path: str, size: int) -> bytes:
    info = tarfile.TarInfo(path)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.PAX_FORMAT)
