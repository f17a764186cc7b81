"""Loading an image layer by layer into docker's classic store, sending only what it lacks.

Its `load` skips layers that it has, by chain ID (OCI image spec, "Layer ChainID"), without asking for
their bytes. So an image grows in steps: each step is an image of the layers so far, which goes when the
next one is there. That lets layers go in while later ones are still being made, costs the engine one
hash of each layer where a pull costs two, and needs no room for the whole image twice.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterable, Sequence
from typing import Any

from lockstep.engine.archive import docker_archive
from lockstep.engine.failures import engine_errors, in_words
from lockstep.engine.owner import LABEL, is_gone, this_process
from lockstep.errors import LockstepError
from lockstep.image import CREATED, LOCK_HASH, Image, ImageLayer
from lockstep.image.store import Store
from lockstep.progress import Task

STEP = "io.lockstep.step"
STEP_BYTES = 256 << 20  # small layers go together, up to this


class Loading:
    """One image on its way into one engine, from the bottom up."""

    def __init__(self, api: Any, store: Store) -> None:
        self._api = api
        self._store = store
        self._step = ""
        self.present: tuple[str, ...] = ()

    def look(self, image_layers: Sequence[ImageLayer]) -> None:
        """Find out how many of these layers the engine has: those of an image that begins with them."""
        wanted = [layer.diff_id for layer in image_layers]
        for label in (STEP, LOCK_HASH):
            with engine_errors("looking for layers"):
                for known in self._api.images(filters={"label": label}):
                    found = self._diff_ids(known["Id"])
                    same = next(
                        (at for at, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b),
                        min(len(found), len(wanted)),
                    )
                    if same > len(self.present):
                        self.present = tuple(wanted[:same])

    def _diff_ids(self, identity: str) -> list[str]:
        import docker.errors

        try:
            return list(self._api.inspect_image(identity)["RootFS"].get("Layers") or [])
        except docker.errors.NotFound:  # removed since it was listed
            return []

    def grow(self, layers: Sequence[ImageLayer], task: Task, stop: threading.Event | None = None) -> None:
        """Bring `layers`, all that there are from the bottom, into the engine, step by step until `stop`."""
        for end in _steps(layers, len(self.present)):
            if stop is not None and stop.is_set():
                return
            step = _step_image(layers[:end])
            self._load(step, task)
            self._replace(step.id)

    def finish(self, image: Image, task: Task) -> None:
        """Bring the whole image in; its last layers go with it."""
        self.grow(image.layers[:-1], task)
        self._load(image, task)

    def forget_steps(self) -> None:
        """Remove the steps of this process, and those of processes that were killed."""
        with contextlib.suppress(LockstepError), engine_errors("looking for leftovers"):
            for known in self._api.images(filters={"label": STEP}):
                owner = (known.get("Labels") or {}).get(LABEL, "")
                if owner == this_process() or is_gone(owner):
                    self._remove(known["Id"])

    def _load(self, image: Image, task: Task) -> None:
        present = len(self.present)
        sizes = {layer.diff_id[7:19]: layer.size for layer in image.layers[present:]}
        done = dict.fromkeys(sizes, 0)
        with engine_errors("loading the image"):
            for event in self._api.load_image(docker_archive(image, self._store, present=present)):
                if told := event.get("error"):
                    raise in_words(str(told), "loading the image")
                layer = str(event.get("id", ""))
                current = (event.get("progressDetail") or {}).get("current")
                if layer in done and current and done[layer] < current <= sizes[layer]:
                    task.advance(current - done[layer])
                    done[layer] = current
        for layer, size in sizes.items():
            task.advance(size - done[layer])
        self.present = tuple(layer.diff_id for layer in image.layers)

    def _replace(self, step: str) -> None:
        if self._step:
            self._remove(self._step)
        self._step = step

    def _remove(self, identity: str) -> None:
        with contextlib.suppress(LockstepError), engine_errors("removing a step"):
            self._api.remove_image(identity)


def _steps(layers: Sequence[ImageLayer], present: int) -> Iterable[int]:
    """Yield where each step ends: when the layers since the last one are enough; the rest is the image's."""
    gathered = 0
    for end in range(present + 1, len(layers) + 1):
        gathered += layers[end - 1].size
        if gathered >= STEP_BYTES:
            yield end
            gathered = 0


def _step_image(layers: Sequence[ImageLayer]) -> Image:
    """Return an image of some layers that nobody runs; its labels tell whose it is."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": CREATED,
        "config": {"Labels": {LABEL: this_process(), STEP: str(len(layers))}},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created": CREATED, "created_by": "lockstep"}] * len(layers),
    }
    return Image(json.dumps(config, sort_keys=True).encode(), tuple(layers))
