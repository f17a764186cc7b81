"""An image into the engine, by the road on which only missing layers travel.

    layers   docker's classic store: `load`, layer by layer (loading.py)
    pull     docker's containerd store: a pull from a registry on loopback (loopback.py)
    whole    Podman, and wherever a better road fails: `load` of everything

docs/decisions/25-delivery.md has the measurements.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from lockstep.engine.archive import docker_archive
from lockstep.engine.failures import engine_errors, in_words
from lockstep.engine.loading import Loading
from lockstep.engine.loopback import serve
from lockstep.errors import DiskFullError, EngineError, IntegrityError, LockstepError
from lockstep.image import Image
from lockstep.image.store import Store
from lockstep.image_name import parse_image_name
from lockstep.progress import Progress, Task

Road = Literal["layers", "pull", "whole"]


@dataclass(frozen=True)
class Delivery:
    """What a delivery did.

    `image_id` is what this engine calls the image: its ID, or with docker's containerd store its
    manifest's digest. `road` is "there already" or one of Road.
    """

    image_id: str
    road: str
    layers_new: int = 0
    layers_reused: int = 0


def deliver(
    api: Any,
    image: Image,
    store: Store,
    name: str,
    progress: Progress,
    road_of: Callable[[], Road],
    begun: Callable[[], Loading] | None = None,
) -> Delivery:
    """Bring `image` into the engine and call it `name` (`repository:tag`), which moves in one step.

    Nothing else is left in the engine, and Ctrl-C cancels. Raises EngineError, DiskFullError,
    IntegrityError when the engine's image isn't this one afterwards, or DamagedError: the engine checks
    the layers that it takes, and when it refuses, ours are read. `road_of` is asked for the road
    only when there is something to bring. `begun` hands over a head start.
    """
    found = engine_id(api, image)
    if found is not None:
        _tag(api, found, name)
        return Delivery(found, "there already", 0, len(image.layers))
    missing = [layer.digest for layer in image.layers if not store.has(layer.digest, layer.size)]
    if missing:
        raise EngineError(
            f"The store lacks {len(missing)} of the image's layers.",
            "Run `./invoke build`: it makes them again.",
        )
    road, new = road_of(), None
    with store.suspected(layer.digest for layer in image.layers):
        if road == "layers":
            new = _load_layers(api, image, store, name, progress, begun)
        elif road == "pull":
            new = _pull(api, image, store, name, progress)
        if new is None:
            road, new = "whole", len(image.layers)
            _load_whole(api, image, store, name, progress)
        if (found := engine_id(api, image)) is None:
            raise IntegrityError(
                f"The engine took the image but doesn't have {image.id} afterwards.",
                "Run the same command again; if it stays so, `docker system prune` clears what the engine keeps.",
            )
    _tag(api, found, name)
    return Delivery(found, road, new, len(image.layers) - new)


def engine_id(api: Any, image: Image) -> str | None:
    """Return what the engine calls the image, or None if it hasn't got it.

    Docker's containerd store names images by their manifest's digest, every other by the config's.
    """
    import docker.errors

    for identity in (image.id, image.digest):
        with engine_errors("looking for the image"):
            try:
                told = api.inspect_image(identity)
            except docker.errors.NotFound:
                continue
            if told["RootFS"].get("Layers") == [layer.diff_id for layer in image.layers]:
                return str(told["Id"])
    return None


def _tag(api: Any, identity: str, name: str) -> None:
    named = parse_image_name(name)
    with engine_errors(f"naming the image {name}"):
        api.tag(identity, named.place, named.tag or "latest", force=True)


def _pull(api: Any, image: Image, store: Store, name: str, progress: Progress) -> int | None:
    """Let the engine pull from loopback; return how many layers it took, None if it can't reach it."""
    with serve(image, store) as registry:
        reference = f"{registry.repository}@{image.digest}"
        try:
            with engine_errors("pulling the image"):
                # auth_config: an empty one keeps the SDK from asking credential helpers about loopback
                stream = api.pull(
                    registry.repository, tag=image.digest, stream=True, decode=True, auth_config={}
                )
                with contextlib.closing(stream):
                    new = _watch(stream, image, progress)
            if (found := engine_id(api, image)) is not None:
                _tag(api, found, name)  # before the loopback name goes, so that the image never is nameless
            return new
        except LockstepError:
            if registry.asked.is_set():
                raise
            progress.say("The engine can't reach this machine's loopback: loading the image instead.")
            return None
        finally:
            _forget(api, reference)


def _forget(api: Any, reference: str) -> None:
    """Remove a name of loopback's from the engine, with the image itself if it has no other name."""
    with contextlib.suppress(LockstepError), engine_errors("removing the loopback name"):
        api.remove_image(reference, noprune=True)


def _watch(stream: Iterator[dict[str, Any]], image: Image, progress: Progress) -> int:
    """Show a pull's progress; return how many layers came. Raises what the engine says went wrong."""
    done: dict[str, int] = {}
    new: set[str] = set()
    sizes = {layer.digest.removeprefix("sha256:")[:12]: layer.size for layer in image.layers}
    with progress.task("Into the engine", image.size) as task:
        for event in stream:
            if told := event.get("error"):
                raise in_words(str(told), "pulling the image")
            layer, status = str(event.get("id", "")), str(event.get("status", ""))
            if layer not in sizes:
                continue
            if status in ("Downloading", "Extracting", "Download complete", "Pull complete"):
                new.add(layer)
            if status in ("Downloading", "Extracting"):
                _advance(task, done, layer, int((event.get("progressDetail") or {}).get("current", 0)))
            elif status in ("Download complete", "Pull complete", "Already exists"):
                _advance(task, done, layer, sizes[layer])
    return len(new)


def _advance(task: Task, done: dict[str, int], layer: str, current: int) -> None:
    if current > done.get(layer, 0):
        task.advance(current - done.get(layer, 0))
        done[layer] = current


def _load_layers(
    api: Any,
    image: Image,
    store: Store,
    name: str,
    progress: Progress,
    begun: Callable[[], Loading] | None,
) -> int | None:
    """Load what is missing, layer by layer; return how many layers went, None if the engine wants all."""
    with contextlib.ExitStack() as stack:
        loading = begun() if begun else stack.enter_context(Loading(api, store))
        loading.look(image.layers)
        size = sum(layer.size for layer in image.layers[loading.found :]) - loading.done
        try:
            with progress.task("Into the engine", size or None) as loading.task:
                loading.finish(image)
            if (found := engine_id(api, image)) is not None:
                _tag(api, found, name)
            return len(image.layers) - loading.found
        except DiskFullError:
            raise
        except EngineError:
            if begun:  # it may be the head start that failed
                return _load_layers(api, image, store, name, progress, None)
            if not loading.found:  # all was sent, so sending all again is no remedy
                raise
            return None


def _load_whole(api: Any, image: Image, store: Store, name: str, progress: Progress) -> None:
    """Send the whole image through `load`, under a name of its own until it is verified."""
    with engine_errors("looking for leftovers"):
        for left in api.images(name="lockstep/load"):  # of loads that were cut off
            for stale in left.get("RepoTags") or ():
                _forget(api, stale)
    reference = f"lockstep/load:{image.id.removeprefix('sha256:')[:32]}"
    with progress.task("Into the engine", image.size) as task, engine_errors("loading the image"):
        for event in api.load_image(docker_archive(image, store, reference=reference, on_sent=task.advance)):
            if told := event.get("error"):
                raise in_words(str(told), "loading the image")
    if (found := engine_id(api, image)) is not None:
        _tag(api, found, name)
    _forget(api, reference)
