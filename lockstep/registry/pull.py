"""A base image from a registry: what a reference means today, and its blobs into the store."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from lockstep.damage import damaged, is_there
from lockstep.errors import IntegrityError, RegistryError
from lockstep.home import disk_full_in_words
from lockstep.image import Image, digest_of, read_image
from lockstep.image.store import Store
from lockstep.progress import SILENT, Progress, Task
from lockstep.registry.client import RegistryClient
from lockstep.registry.reference import Reference, parse_reference

MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
ARCHITECTURES = {"linux-64": "amd64", "linux-aarch64": "arm64"}
AT_ONCE = 4
CHUNK = 1 << 20


def resolve(reference: str, *, platform: str = "linux-64") -> str:
    """Return the digest ("sha256:<hex>") of the manifest that a reference means today for a platform.

    Raises UnreachableError when the registry can't be reached, RegistryError when it refuses.
    """
    with RegistryClient(parse_reference(reference)) as client:
        return digest_of(_manifest(client, platform))


def pull_base(reference: str, digest: str, store: Store, progress: Progress = SILENT) -> Image:
    """Bring the image of a manifest's digest into the store and return it.

    Blobs are verified while they come; what a killed run left continues where it stopped, and what is
    there isn't asked for. Raises UnreachableError, RegistryError, IntegrityError or DiskFullError.
    """
    named = parse_reference(reference)
    wanted = Reference(named.host, named.repository, named.tag, digest)
    with RegistryClient(wanted) as client:
        manifest = _manifest(client, "linux-64")
        if digest_of(manifest) != digest:
            raise IntegrityError(
                f"{named.host} gave another manifest for {digest}: {digest_of(manifest)}.",
                "A mirror in between may be broken; don't use it until it is known why.",
            )
        told = json.loads(manifest)
        _blob(client, told["config"], store, Task(), threading.Event())
        store.check(told["config"]["digest"])
        image = read_image(manifest, store.blob(told["config"]["digest"]).read_bytes())
        missing = [x for x in told["layers"] if not store.has(x["digest"], x["size"])]
        with progress.task(f"Pulling {reference}", sum(x["size"] for x in missing) or None) as task:
            together(lambda layer, stop: _blob(client, layer, store, task, stop), missing)
    store.put(manifest)
    store.save_image(image)
    return image


def together(action: Callable[[Any, threading.Event], None], things: list[Any]) -> None:
    """Do `action` for each thing, four at once; the first error, or Ctrl-C, stops all.

    The threads are daemons, so that Ctrl-C ends at once however long a server is silent.
    """
    stop = threading.Event()
    waiting: SimpleQueue[Any] = SimpleQueue()
    done: SimpleQueue[BaseException | None] = SimpleQueue()
    for thing in things:
        waiting.put(thing)

    def work() -> None:
        while not stop.is_set():
            try:
                action(waiting.get_nowait(), stop)
                done.put(None)
            except Empty:
                return
            except BaseException as error:  # the waiting thread raises it
                done.put(error)

    for _ in range(min(AT_ONCE, len(things))):
        threading.Thread(target=work, name="registry", daemon=True).start()
    try:
        for _ in things:
            if (error := done.get()) is not None:
                raise error
    finally:
        stop.set()


def _manifest(client: RegistryClient, platform: str) -> bytes:
    """Return the bytes of the manifest that the client's reference names, out of an index if it is one."""
    reference = client.reference
    content = _get_manifest(client, reference.wanted)
    told = json.loads(content)
    if told.get("mediaType") not in INDEXES and "manifests" not in told:
        return content
    architecture = ARCHITECTURES.get(platform, platform)
    for entry in told["manifests"]:
        of = entry.get("platform") or {}
        if (of.get("os"), of.get("architecture")) == ("linux", architecture):
            return _get_manifest(client, entry["digest"])
    raise RegistryError(
        f"{reference} has no image for linux/{architecture}.", "Choose another base image in invoke.yaml."
    )


def _get_manifest(client: RegistryClient, wanted: str) -> bytes:
    """Return a manifest's bytes, verified if it is asked for by digest."""
    accept = {"Accept": ", ".join((*MANIFESTS, *INDEXES))}
    response = client.retried(
        f"asking for {client.reference}", lambda: client.request("GET", f"manifests/{wanted}", headers=accept)
    )
    try:
        told = json.loads(response.content)
        is_manifest = isinstance(told, dict) and ("manifests" in told or {"config", "layers"} <= set(told))
    except ValueError:
        is_manifest = False
    if not is_manifest:
        raise RegistryError(
            f"{client.reference.host} answered something that is no image manifest (schema 2 or OCI).",
            "Is it a registry, and not a proxy's page? Mend the name, or the proxy settings.",
        )
    if wanted.startswith("sha256:") and digest_of(response.content) != wanted:
        raise IntegrityError(
            f"{client.reference.host} gave {digest_of(response.content)} for {wanted}.",
            "A mirror in between may be broken; don't use it until it is known why.",
        )
    return response.content


def _blob(
    client: RegistryClient, descriptor: dict[str, Any], store: Store, task: Task, stop: threading.Event
) -> None:
    """Bring one blob into the store; its part is kept while it comes, so the next run goes on with it."""
    digest, size = str(descriptor["digest"]), int(descriptor["size"])
    if store.has(digest):
        return
    with store.home.exclusive(f"blob-{digest[7:23]}"), disk_full_in_words(store.home.path):
        if store.has(digest):  # another process was quicker
            return
        part = store.home.layers / "partial" / digest.removeprefix("sha256:")
        part.parent.mkdir(parents=True, exist_ok=True)
        goes_on = is_there(part)
        client.retried(f"fetching {digest[:19]}", lambda: _receive(client, digest, size, part, task, stop))
        if stop.is_set():
            return
        found = hashlib.sha256()
        with part.open("rb") as file:
            while chunk := file.read(CHUNK):
                found.update(chunk)
        if f"sha256:{found.hexdigest()}" != digest:
            if goes_on:
                raise damaged(part, f"expected {digest} when the rest had come, found {found.hexdigest()}")
            part.unlink()
            raise IntegrityError(
                f"{client.reference.host} gave sha256:{found.hexdigest()} for the layer {digest}.",
                "Run the same command again; if it stays so, the registry's copy is damaged.",
            )
        store.adopt(part, digest)


def _receive(
    client: RegistryClient, digest: str, size: int, part: Path, task: Task, stop: threading.Event
) -> None:
    """Write a blob to `part`, from where it stops."""
    begin = part.stat().st_size if part.exists() else 0
    if begin >= size:
        return
    headers = {"Range": f"bytes={begin}-"} if begin else {}
    with client.stream(f"blobs/{digest}", expect=(200, 206), headers=headers) as response:
        begin = begin if response.status_code == 206 else 0
        with part.open("ab" if begin else "wb") as file:
            task.advance(begin)
            for chunk in response.iter_raw(CHUNK):
                if stop.is_set():
                    return
                file.write(chunk)
                task.advance(len(chunk))
