"""Store: blobs by digest, and what was made from what.

    layers/sha256/<hex>         blobs: base layers as their registry has them, our layers uncompressed,
                                image configs
    layers/made/<key>.json      the layer made of one package or group: diff ID, size, packages
    layers/files/<key>.json     the paths in it, what each holds, and where in the tar
    layers/locks/<key>.json     all layers of a lock
    layers/images/<hex>.json    images, by their ID

A blob's name is its hash, a record holds its own: both are verified while they are written and appear by
rename. What comes out is checked by whoever reads it (docs/decisions/21); what is wrong is put aside, and a
DamagedError says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lockstep.damage import damaged, is_there, is_whole
from lockstep.errors import DiskFullError, IntegrityError
from lockstep.home import Home
from lockstep.image.image import BASE_DIGEST, Image, ImageLayer
from lockstep.image.layer import CHUNK, Layer
from lockstep.seal import read_record, sealed

File = tuple[str, int, int]
"""What a path holds (a hash, a link's target, or "folder"), and its first and last byte in the tar."""


@dataclass(frozen=True)
class Store:
    """The layers and images that this machine has; many processes may use it at once."""

    home: Home

    def blob(self, digest: str) -> Path:
        """Return where the blob "sha256:<hex>" is kept, whether or not it is there."""
        return self.home.layers / "sha256" / digest.removeprefix("sha256:")

    def has(self, digest: str, size: int | None = None) -> bool:
        """Say whether a blob is there, of `size` bytes if that is known; its content isn't read.

        Raises DamagedError for anything else in its place.
        """
        return is_there(self.blob(digest), size)

    def check(self, digest: str) -> None:
        """Read a blob, if it is there; raise DamagedError unless it is what its digest says."""
        is_whole(self.blob(digest), digest.removeprefix("sha256:"))

    @contextlib.contextmanager
    def suspected(self, digests: Iterable[str]) -> Iterator[None]:
        """Read these blobs only if the block fails: they may be why. Then a damaged one is what is raised."""
        try:
            yield
        except DiskFullError:
            raise
        except Exception:
            for digest in digests:
                self.check(digest)
            raise

    def put(self, data: bytes) -> str:
        """Keep a small blob (a config, a manifest) and return its digest."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if not self.has(digest):
            with self.incoming(digest) as file:
                file.write(data)
        return digest

    @contextlib.contextmanager
    def incoming(self, digest: str) -> Iterator[BinaryIO]:
        """Give a file to write a blob to; it appears under its digest when the block ends.

        Raises IntegrityError, and keeps nothing, if what was written isn't what the digest says.
        """
        with self.home.workspace("blob") as folder:
            with (folder / "blob").open("w+b") as file:
                yield file
                file.seek(0)
                found = hashlib.sha256()
                while chunk := file.read(CHUNK):
                    found.update(chunk)
            if digest != f"sha256:{found.hexdigest()}":
                raise IntegrityError(
                    f"Expected the blob {digest}, found sha256:{found.hexdigest()}.",
                    "Run the same command again; if it stays so, the server's copy is damaged.",
                )
            self.adopt(folder / "blob", digest)

    def adopt(self, path: Path, digest: str) -> None:
        """Take a finished file on the store's disk in, by rename, as the blob of a known digest."""
        path.chmod(0o644)
        target = self.blob(digest)
        is_there(target)  # a folder in its place would be in the way
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)

    def save_image(self, image: Image) -> None:
        """Keep an image's config and layer list, so that `image` can be asked for by its ID."""
        self.put(image.config)
        layers = [asdict(x) for x in image.layers]
        self.write_json("images", image.id, {"layers": layers})

    def image(self, image_id: str) -> Image | None:
        """Return the image of an ID ("sha256:<hex>"), or None if it was never saved or is gone."""
        record = self.read_json("images", image_id)
        if record is None or not self.has(image_id):
            return None
        self.check(image_id)
        layers = tuple(ImageLayer(**{**x, "packages": tuple(x["packages"])}) for x in record["layers"])
        return Image(self.blob(image_id).read_bytes(), layers)

    def layer(self, key: str) -> Layer | None:
        """Return the layer that was made for a key, if it, its blob and the record of its files are there."""
        record = self.read_json("made", key)
        if record is None or not self.has(record["diff_id"], record["size"]):
            return None
        if not is_there(self._json_path("files", key)):
            return None
        return Layer(record["diff_id"], record["size"], tuple(record["packages"]))

    def save_layer(
        self, key: str, layer: Layer, file: Path, files: Mapping[str, File], members: Sequence[str] = ()
    ) -> None:
        """Take a finished layer in, by rename, with what it holds, and remember the key it stands for.

        `members` are the keys of the layers that it was merged from.
        """
        self.write_json("files", key, {"paths": files})
        self.adopt(file, layer.diff_id)
        record = {**asdict(layer), "members": members}
        self.write_json("made", key, record)  # last: it promises the other two

    def files(self, key: str) -> dict[str, File]:
        """Return what a layer that is there holds, by path relative to the image's root, sorted."""
        if (record := self.read_json("files", key)) is None:
            raise damaged(self._json_path("files", key), "expected the paths in a layer, found nothing")
        return {path: (what, start, end) for path, (what, start, end) in record["paths"].items()}

    def save_layers(self, key: str, layers: Sequence[Layer]) -> None:
        """Remember all layers of a lock."""
        self.write_json("locks", key, {"layers": [asdict(x) for x in layers]})

    def layers(self, key: str) -> tuple[Layer, ...] | None:
        """Return all layers of a lock, if they are known and every blob is there."""
        record = self.read_json("locks", key)
        if record is None or not all(self.has(x["diff_id"], x["size"]) for x in record["layers"]):
            return None
        return tuple(Layer(x["diff_id"], x["size"], tuple(x["packages"])) for x in record["layers"])

    def read_json(self, kind: str, key: str) -> dict[str, Any] | None:
        """Return what was kept of a kind ("made", "files", "locks", "images") under a key, or None.

        Raises DamagedError for a record that isn't as it was written.
        """
        return read_record(self._json_path(kind, key))

    def write_json(self, kind: str, key: str, value: Mapping[str, Any]) -> None:
        """Keep a value under a key, whole or not at all."""
        path = self._json_path(kind, key)
        is_there(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.home.workspace("json") as folder:
            (folder / "json").write_bytes(sealed(path, value))
            os.replace(folder / "json", path)

    def _json_path(self, kind: str, key: str) -> Path:
        return self.home.layers / kind / f"{key.removeprefix('sha256:')}.json"

    def image_ids(self) -> tuple[str, ...]:
        """Return the IDs of all images that were saved."""
        return tuple(f"sha256:{path.stem}" for path in sorted(self.home.layers.glob("images/*.json")))

    def collect(self, keep: Iterable[Image], *, dry_run: bool = False) -> int:
        """Remove every blob and record that no image of `keep` needs; return the bytes freed.

        What an image needs is its blobs, its base image, and the layers of the packages that share one
        of its layers: from those the next build makes that layer anew. The unpacked interpreters go, since
        the next build that compiles has them again in a second. With `dry_run` nothing goes and the bytes
        are those that would. Waits for a process that is just making layers.
        """
        with self.home.exclusive("assemble"):
            return self._collect(self._with_bases(list(keep)), dry_run)

    def _with_bases(self, kept: list[Image]) -> list[Image]:
        saved = [x for x in map(self.image, self.image_ids()) if x is not None]
        return kept + [x for x in saved if any(x.layers == y.layers[: len(x.layers)] for y in kept)]

    def _collect(self, kept: list[Image], dry_run: bool) -> int:
        images = {x.id for x in kept}
        blobs = {x.digest for image in kept for x in image.layers} | images
        blobs |= {x.labels.get(BASE_DIGEST, "") for x in kept}
        made = {x.stem: self.read_json("made", x.stem) or {} for x in self.home.layers.glob("made/*.json")}
        shared = [x for record in made.values() if record.get("diff_id") in blobs for x in record["members"]]
        blobs |= {made[x]["diff_id"] for x in shared if made.get(x)}
        unused = [x for x in sorted(self.home.layers.glob("sha256/*")) if f"sha256:{x.name}" not in blobs]
        unpacked = sum(x.lstat().st_size for x in self.home.interpreters.rglob("*"))
        if dry_run:
            return unpacked + sum(path.stat().st_size for path in unused)
        freed = unpacked + sum(map(_remove, unused))
        with self.home.workspace("clean") as folder, contextlib.suppress(FileNotFoundError):
            self.home.interpreters.rename(folder / "interpreters")  # so that none is ever there in part
        for path in sorted(self.home.layers.glob("images/*.json")):
            if f"sha256:{path.stem}" not in images:
                freed += _remove(path)
        for path in sorted(self.home.layers.glob("made/*.json")):
            if self.layer(path.stem) is None:
                freed += _remove(path) + _remove(self._json_path("files", path.stem))
        for path in sorted(self.home.layers.glob("locks/*.json")):
            if self.layers(path.stem) is None:
                freed += _remove(path)
        return freed


def _remove(path: Path) -> int:
    try:
        size = path.lstat().st_size
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    except FileNotFoundError:
        return 0
    return size
