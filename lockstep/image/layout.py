"""Layout: an image as a folder that other tools read (OCI image spec, "Image Layout")."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from lockstep.errors import IntegrityError
from lockstep.home import disk_full_in_words
from lockstep.image.image import MANIFEST, Image, digest_of, read_image
from lockstep.image.store import Store

_INDEX = "application/vnd.oci.image.index.v1+json"
_MARK = "oci-layout"


def read_layout(folder: Path, store: Store) -> Image:
    """Take the image of a layout, its blobs verified, into the store and return it.

    The layout must hold one image. Raises IntegrityError for a blob that isn't what its name says.
    """
    (entry,) = json.loads((folder / "index.json").read_bytes())["manifests"]
    manifest = _blob(folder, entry["digest"]).read_bytes()
    if digest_of(manifest) != entry["digest"]:
        raise IntegrityError(
            f"The manifest in {folder} isn't {entry['digest']}.", f"Remove {folder} and try again."
        )
    config = _blob(folder, json.loads(manifest)["config"]["digest"]).read_bytes()
    image = read_image(manifest, config)
    store.put(config)
    for layer in image.layers:
        if not store.has(layer.digest, layer.size):
            with store.incoming(layer.digest) as file, _blob(folder, layer.digest).open("rb") as source:
                shutil.copyfileobj(source, file)
    return image


def write_layout(image: Image, store: Store, folder: Path, tag: str = "latest") -> None:
    """Write an image as a new layout, in which it has the name `tag`.

    Layers are linked where the disk allows it, so the layout costs no room beside the store. The folder
    appears whole. Raises FileExistsError if it is there already; DiskFullError.
    """
    if folder.exists():
        raise FileExistsError(folder)
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        with disk_full_in_words(folder.parent):
            _write(image, store, part, tag)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write(image: Image, store: Store, folder: Path, tag: str) -> None:
    (folder / "blobs" / "sha256").mkdir(parents=True)
    for layer in image.layers:
        _place(store.blob(layer.digest), _blob(folder, layer.digest))
    _blob(folder, image.id).write_bytes(image.config)
    _blob(folder, image.digest).write_bytes(image.manifest)
    entry = {
        "mediaType": MANIFEST,
        "digest": image.digest,
        "size": len(image.manifest),
        "annotations": {"org.opencontainers.image.ref.name": tag},
    }
    (folder / "index.json").write_text(
        json.dumps({"schemaVersion": 2, "mediaType": _INDEX, "manifests": [entry]})
    )
    (folder / _MARK).write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))


def _blob(folder: Path, digest: str) -> Path:
    return folder / "blobs" / "sha256" / digest.removeprefix("sha256:")


def _place(source: Path, target: Path) -> None:
    if target.exists():  # two layers of an image may be the same
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
