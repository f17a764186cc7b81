"""An image as one tar stream for an engine's `load`, made on the fly with flat memory.

It is two formats at once, as `docker save` writes since version 25: an OCI image layout (`oci-layout`,
`index.json`, `blobs/`), which docker's containerd store reads, and `manifest.json`, which the classic
store and Podman read.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator

from lockstep.image import MANIFEST, Image
from lockstep.image.layer import END
from lockstep.image.store import Store
from lockstep.image_name import parse_image_name

CHUNK = 64 << 10  # bigger blocks cost twice the time: each is fresh memory


def docker_archive(
    image: Image,
    store: Store,
    *,
    reference: str | None = None,
    present: int = 0,
    on_sent: Callable[[int], None] = lambda size: None,
    before_end: Callable[[], None] = lambda: None,
) -> Iterator[bytes]:
    """Yield the tar, without the contents of the first `present` layers.

    The classic store of docker looks a layer up by what is below and in it, and reads the archive only
    for what it lacks; every other engine needs all. The image is called `reference`, or nothing.
    `on_sent` is told how many bytes of layers went; the engine waits for the end of the tar until
    `before_end` returns. What either raises ends the stream.
    """
    layers = [_path(layer.digest) for layer in image.layers]
    annotations = {}
    if reference is not None:
        annotations = {
            "io.containerd.image.name": reference,
            "org.opencontainers.image.ref.name": parse_image_name(reference).tag or "latest",
        }
    descriptor = {
        "mediaType": MANIFEST,
        "digest": image.digest,
        "size": len(image.manifest),
        "annotations": annotations,
    }
    docker = {"Config": _path(image.id), "RepoTags": [reference] if reference else None, "Layers": layers}
    yield from _file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    yield from _file("index.json", json.dumps({"schemaVersion": 2, "manifests": [descriptor]}).encode())
    yield from _file("manifest.json", json.dumps([docker]).encode())
    yield from _file(_path(image.digest), image.manifest)
    yield from _file(_path(image.id), image.config)
    sent = set()
    for layer in image.layers[present:]:
        if layer.digest in sent:
            continue
        sent.add(layer.digest)
        yield _header(_path(layer.digest), layer.size)
        with store.blob(layer.digest).open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
                on_sent(len(chunk))
        yield bytes(-layer.size % 512)
    before_end()
    yield END


def _path(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _file(path: str, content: bytes) -> Iterator[bytes]:
    yield _header(path, len(content))
    yield content + bytes(-len(content) % 512)


def _header(path: str, size: int) -> bytes:
    info = tarfile.TarInfo(path)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.PAX_FORMAT)
