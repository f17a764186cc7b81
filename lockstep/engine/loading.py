"""Loading an image layer by layer into docker's classic store, sending only what it lacks.

Its `load` skips layers that it has, by chain ID (OCI image spec, "Layer ChainID"), without asking for
their bytes. So an image grows in steps: each step is an image of the layers so far, which goes when the
next one is there. That lets layers go in while later ones are still being made, costs the engine one
hash of each layer where a pull costs two, and needs no room for the whole image twice.

`load` first copies what is sent, then unpacks it. So two steps are under way at once: the engine copies
the one, whose end is held back, while it unpacks the other.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import json
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
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
UNDER_WAY = 2  # steps at once: one is copied, one is unpacked


class Loading:
    """One image on its way into one engine, from the bottom up. Leaving the context leaves no step behind.

    `present` are the diff IDs that the engine has or is being given; `found` is how many of them it had
    before. `task` is told the bytes that are done.
    """

    def __init__(self, api: Any, store: Store) -> None:
        self._api = api
        self._store = store
        self._pool = ThreadPoolExecutor(UNDER_WAY, "load")
        self._under_way: collections.deque[Future[None]] = collections.deque()
        self._cancelled = threading.Event()
        self._step = ""
        self._has_begun = False
        self.present: tuple[str, ...] = ()
        self.found = 0
        self.done = 0
        self.task = Task()

    def __enter__(self) -> Loading:
        return self

    def __exit__(self, *_: object) -> None:
        self._cancel()
        self._pool.shutdown()
        if self._has_begun:
            self._forget_steps()

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
                        self.found = same

    def _diff_ids(self, identity: str) -> list[str]:
        import docker.errors

        try:
            return list(self._api.inspect_image(identity)["RootFS"].get("Layers") or [])
        except docker.errors.NotFound:  # removed since it was listed
            return []

    def grow(self, layers: Sequence[ImageLayer], stop: threading.Event | None = None) -> None:
        """Begin to bring in `layers`, all that there are from the bottom, step by step until `stop`.

        Raises what went wrong with any step so far; then start over.
        """
        for end in _steps(layers, len(self.present)):
            if stop is not None and stop.is_set():
                return
            self._begin(_step_image(layers[:end]))

    def finish(self, image: Image) -> None:
        """Bring the whole image in; its last layers go with it."""
        self.grow(image.layers[:-1])
        self._begin(image)
        while self._under_way:
            self._under_way.popleft().result()

    def start_over(self) -> None:
        """Forget what was begun, after an error."""
        self._cancel()
        self.present, self.found, self.done = (), 0, 0

    def _begin(self, image: Image) -> None:
        while len(self._under_way) >= UNDER_WAY:
            self._under_way.popleft().result()
        self._has_begun = True
        before = self._under_way[-1] if self._under_way else None
        self._under_way.append(self._pool.submit(self._load, image, len(self.present), before))
        self.present = tuple(layer.diff_id for layer in image.layers)

    def _load(self, image: Image, present: int, before: Future[None] | None) -> None:
        def check(_: int) -> None:
            if self._cancelled.is_set():
                raise CancelledError

        def wait() -> None:
            if before is not None:
                before.result()  # its layers are what this step stands on

        archive = docker_archive(image, self._store, present=present, on_sent=check, before_end=wait)
        sizes = {layer.diff_id[7:19]: layer.size for layer in image.layers[present:]}
        done = dict.fromkeys(sizes, 0)
        with engine_errors("loading the image"):
            for event in self._api.load_image(archive):
                if told := event.get("error"):
                    raise in_words(str(told), "loading the image")
                layer = str(event.get("id", ""))
                current = (event.get("progressDetail") or {}).get("current")
                if layer in done and current and done[layer] < current <= sizes[layer]:
                    self._advance(current - done[layer])
                    done[layer] = current
        self._advance(sum(sizes.values()) - sum(done.values()))
        if self._step:
            self._remove(self._step)
        self._step = image.id

    def _advance(self, size: int) -> None:
        self.done += size
        self.task.advance(size)

    def _cancel(self) -> None:
        """End what is under way: a step that is being sent at once, one that is unpacked when it is."""
        self._cancelled.set()
        concurrent.futures.wait(self._under_way)
        self._under_way.clear()
        self._cancelled.clear()

    def _forget_steps(self) -> None:
        """Remove the steps of this process, and those of processes that were killed."""
        with contextlib.suppress(LockstepError), engine_errors("looking for leftovers"):
            for known in self._api.images(filters={"label": STEP}):
                owner = (known.get("Labels") or {}).get(LABEL, "")
                if owner == this_process() or is_gone(owner):
                    self._remove(known["Id"])

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
