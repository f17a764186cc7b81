"""An image to a registry, blob by blob in parallel; what is there already isn't sent.

The store's own layers are uncompressed; they are compressed on their way, so what a registry calls them
differs from what the engine does. The image's ID, which is the config's digest, is the same in both, and
is read back in the end. OCI distribution spec 1.1, "Push".
"""

from __future__ import annotations

import hashlib
import json
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from lockstep.damage import damaged
from lockstep.errors import IntegrityError
from lockstep.image import CONFIG, LAYER, MANIFEST, Image, ImageLayer, digest_of
from lockstep.image.store import Store
from lockstep.progress import SILENT, Progress, Task
from lockstep.registry.client import RegistryClient
from lockstep.registry.pull import CHUNK, MANIFESTS, together
from lockstep.registry.reference import Reference, parse_reference

GZIP = f"{LAYER}+gzip"
LEVEL = 1  # see docs/decisions/29: what is in wheels hardly gets smaller, and higher levels take minutes


@dataclass(frozen=True)
class PushResult:
    """What a push did: the manifest's digest in the registry, bytes sent, and how many blobs were there."""

    reference: str
    digest: str
    image_id: str
    sent: int
    blobs_sent: int
    blobs_reused: int


@dataclass(frozen=True)
class _Blob:
    """A blob as the registry has it."""

    media_type: str
    digest: str
    size: int

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


def push(image: Image, store: Store, reference: str, progress: Progress = SILENT) -> PushResult:
    """Push `image` and give it the reference's tag; return what the registry has afterwards.

    Raises UnreachableError, RegistryError in words, IntegrityError when what is read back isn't this image,
    or DamagedError for a layer that isn't what it was: the registry isn't asked to keep it. A push that was
    cut off goes on with the blobs that aren't there yet.
    """
    named = parse_reference(reference)
    with RegistryClient(named) as client:
        upload = _Upload(client, store)
        config = _Blob(CONFIG, image.id, len(image.config))
        upload.bytes(
            config, image.config
        )  # first: it is small and says at once whether this account may push
        blobs: dict[str, _Blob] = {}
        with progress.task(f"Pushing {named}", image.size - config.size) as task:

            def send(layer: ImageLayer, stop: threading.Event) -> None:
                blobs[layer.digest] = upload.layer(layer, task, stop)

            distinct = {layer.digest: layer for layer in image.layers}
            together(send, sorted(distinct.values(), key=lambda layer: -layer.size))
        layers = [blobs[layer.digest].descriptor for layer in image.layers]
        told = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config.descriptor, "layers": layers}
        manifest = json.dumps(told, separators=(",", ":"), sort_keys=True).encode()
        digest = _publish(client, named, manifest, image)
        upload.remember()
    return PushResult(
        f"{named.host}/{named.repository}@{digest}", digest, image.id, upload.sent, upload.new, upload.reused
    )


def _publish(client: RegistryClient, named: Reference, manifest: bytes, image: Image) -> str:
    """Put the manifest under the tag, read it back and compare."""
    digest = digest_of(manifest)
    client.retried(
        f"naming the image {named}",
        lambda: client.request(
            "PUT",
            f"manifests/{named.tag}",
            expect=(201, 200),
            content=manifest,
            headers={"Content-Type": MANIFEST},
        ),
    )
    back = client.retried(
        f"reading {named} back",
        lambda: client.request("GET", f"manifests/{digest}", headers={"Accept": ", ".join(MANIFESTS)}),
    )
    if digest_of(back.content) != digest or back.json()["config"]["digest"] != image.id:
        raise IntegrityError(
            f"{named.host} has another image under {named} than the one that was pushed ({image.id}).",
            "Push again; if it stays so, the registry rewrites manifests and can't be used.",
        )
    return digest


class _Upload:
    """The blobs of one push, counted. Threads share it."""

    def __init__(self, client: RegistryClient, store: Store) -> None:
        self._client = client
        self._store = store
        self._lock = threading.Lock()
        self._known: dict[str, list[str]] = store.read_json("pushed", _key(client.reference.host)) or {}
        self.sent = self.new = self.reused = 0

    def layer(self, layer: ImageLayer, task: Task, stop: threading.Event) -> _Blob:
        """Bring a layer to the registry and return the blob that it is there."""
        if layer.media_type != LAYER:  # a base layer, as its own registry compressed it
            blob = _Blob(layer.media_type, layer.digest, layer.size)
            if not self._is_there(blob.digest):
                self._send(layer, blob, task, stop)
            else:
                task.advance(layer.size)
            return blob
        made = self._store.read_json("compressed", layer.digest)
        if made is not None and self._is_there(made["digest"]):
            task.advance(layer.size)
            return _Blob(GZIP, made["digest"], made["size"])
        blob = self._send(layer, None, task, stop)
        self._store.write_json("compressed", layer.digest, {"digest": blob.digest, "size": blob.size})
        return blob

    def bytes(self, blob: _Blob, content: bytes) -> None:
        """Bring a small blob to the registry."""
        if self._is_there(blob.digest):
            return

        def send() -> None:
            location = self._client.request("POST", "blobs/uploads/", expect=(202,)).headers["Location"]
            url = httpx.URL(self._client.locate(location)).copy_merge_params({"digest": blob.digest})
            self._client.request("PUT", str(url), expect=(201,), content=content)

        self._client.retried("sending the config", send)
        self._count(len(content))

    def remember(self) -> None:
        """Keep which repository of this registry has which blob, for others to take it from there."""
        self._store.write_json("pushed", _key(self._client.reference.host), self._known)

    def _is_there(self, digest: str) -> bool:
        """Tell whether the repository has a blob, or takes it from another one of this registry."""

        def look() -> bool:
            response = self._client.request("HEAD", f"blobs/{digest}", expect=(200, 404))
            return response.status_code == 200 or self._mounted(digest)

        there = self._client.retried(f"looking for {digest[:19]}", look)
        with self._lock:
            self.reused += there
            self._note(digest)
        return there

    def _mounted(self, digest: str) -> bool:
        """Ask for a blob of another repository (spec, "Mounting a blob from another repository")."""
        here = self._client.reference.repository
        for repository in self._known.get(digest, []):
            if repository == here:
                continue
            response = self._client.http.post(
                self._client.locate("blobs/uploads/"), params={"mount": digest, "from": repository}
            )
            if response.status_code == 201:
                return True  # 202: not allowed or not there; the upload that it opened is left to run out
        return False

    def _send(self, layer: ImageLayer, blob: _Blob | None, task: Task, stop: threading.Event) -> _Blob:
        """Send a layer's blob as it is, or compressed if `blob` is None; retried from its start."""
        path = self._store.blob(layer.digest)

        def send() -> _Blob:
            body = _Body(path, task, stop, compress=blob is None)
            location = self._client.request("POST", "blobs/uploads/", expect=(202,)).headers["Location"]
            try:
                response = self._client.request(
                    "PATCH",
                    location,
                    expect=(202, 201, 204),
                    content=iter(body),
                    headers={"Content-Type": "application/octet-stream"},
                )
            except BaseException:
                task.advance(-body.read)
                raise
            made = _Blob(GZIP if blob is None else blob.media_type, body.digest, body.size)
            if body.read_digest != layer.digest:  # before the registry is asked to keep it
                raise damaged(path, f"expected {layer.digest}, found {body.read_digest}")
            url = httpx.URL(self._client.locate(response.headers["Location"]))
            self._client.request("PUT", str(url.copy_merge_params({"digest": made.digest})), expect=(201,))
            return made

        with self._store.suspected([layer.digest]):
            made = self._client.retried(f"sending {layer.digest[:19]}", send)
        self._count(made.size)
        with self._lock:
            self._note(made.digest)
        return made

    def _count(self, sent: int) -> None:
        with self._lock:
            self.sent += sent
            self.new += 1

    def _note(self, digest: str) -> None:
        repositories = self._known.setdefault(digest, [])
        if self._client.reference.repository not in repositories:
            repositories.append(self._client.reference.repository)


class _Body:
    """A blob on its way: read, compressed and hashed in one pass; what is said of it holds at the end."""

    def __init__(self, path: Path, task: Task, stop: threading.Event, *, compress: bool) -> None:
        self._path = path
        self._task = task
        self._stop = stop
        self._compress = compress
        self._hash = hashlib.sha256()
        self._read_hash = hashlib.sha256() if compress else self._hash
        self.size = 0
        self.read = 0

    @property
    def digest(self) -> str:
        """The digest of what was sent."""
        return f"sha256:{self._hash.hexdigest()}"

    @property
    def read_digest(self) -> str:
        """The digest of what was read."""
        return f"sha256:{self._read_hash.hexdigest()}"

    def __iter__(self) -> Iterator[bytes]:
        # wbits 31: a gzip header without name and time (RFC 1952), so equal layers give equal blobs
        deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, 31) if self._compress else None
        with self._path.open("rb") as file:
            while chunk := file.read(CHUNK):
                if self._stop.is_set():
                    raise httpx.ReadError("stopped")
                self.read += len(chunk)
                self._task.advance(len(chunk))
                if deflate:
                    self._read_hash.update(chunk)
                if out := (deflate.compress(chunk) if deflate else chunk):
                    yield self._sent(out)
        if deflate:
            yield self._sent(deflate.flush())

    def _sent(self, data: bytes) -> bytes:
        self._hash.update(data)
        self.size += len(data)
        return data


def _key(host: str) -> str:
    return hashlib.sha256(host.encode()).hexdigest()
