"""Workshop: makes the layers of single packages, several at once, in flat memory.

Two kinds of work overlap: writing (inflate, hash, write) in threads, which leave Python's lock to each
other for nearly all of it, and compiling in processes of the image's Python. Each package goes through
open, compile, write; of those that wait, the lowest layer goes first, for the engine to have early.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import heapq
import itertools
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lockstep.damage import is_whole
from lockstep.errors import FetchError, PackageError
from lockstep.image.layer import LARGE, Layer, LayerWriter
from lockstep.image.store import File, Store
from lockstep.layers.bytecode import Compiler, sources
from lockstep.layers.collision import FOLDER, link_to
from lockstep.layers.large import UNCHECKED
from lockstep.layers.package import Item, Unpacked, check_hash
from lockstep.layers.prefix import interpreter_packages, link_interpreter, link_package, python_of
from lockstep.layers.wheel import open_wheel
from lockstep.lock.locked import LockedPackage
from lockstep.seal import check_folder, is_sealed, seal_folder

BUFFER = 1 << 18
OPEN = 64  # packages open at once: each holds a file open, and a conda package lies linked on the disk
WORKERS = max(2, min(len(os.sched_getaffinity(0)), 8))


class Workshop:
    """Makes layers of one lock's packages. `folder` is on the store's disk and outlives it.

    `advance` is told the compressed bytes that are done. Use as a context: leaving it ends all work.
    """

    def __init__(
        self,
        store: Store,
        packages: Sequence[LockedPackage],
        paths: Mapping[str, Path],
        folder: Path,
        advance: Callable[[int], None],
    ) -> None:
        self._store = store
        self._paths = paths
        self._folder = folder
        self._told = advance
        self._python = python_of(packages)
        self._stopped = threading.Event()
        self._numbers = itertools.count()
        self._open, self._compile, self._write = (ThreadPoolExecutor(x) for x in (1, WORKERS, WORKERS))
        self._compile_few = ThreadPoolExecutor(1)  # what is soon compiled doesn't wait behind what isn't
        self._compiler = Compiler(lambda: self._interpreter(interpreter_packages(packages)), WORKERS + 1)

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._compiler.close()
        for pool in (self._open, self._compile, self._compile_few, self._write):
            pool.shutdown(cancel_futures=True)

    def make(self, packages: Mapping[LockedPackage, str]) -> None:
        """Make the layer of each package and save it under its key, or raise the first error there was.

        They are finished in the order of `packages`, as far as they are compiled.
        """

        async def make_all() -> None:
            limit, turns = asyncio.Semaphore(OPEN), _Turns(WORKERS)
            await asyncio.gather(
                *(self._make(x, key, limit, turns, place) for place, (x, key) in enumerate(packages.items()))
            )

        asyncio.run(make_all())

    async def _make(
        self, package: LockedPackage, key: str, limit: asyncio.Semaphore, turns: _Turns, place: int
    ) -> None:
        loop = asyncio.get_running_loop()
        async with limit:
            with contextlib.ExitStack() as stack:
                opened = self._opened(package)
                unpacked = await loop.run_in_executor(self._open, stack.enter_context, opened)
                pieces = list(sources(unpacked.items, self._python)) if self._python else []
                pool = self._compile if len(pieces) > 1 else self._compile_few
                compiling = [
                    loop.run_in_executor(pool, self._compiler.compile, piece, self._new_path())
                    for piece in pieces
                ]
                compiled = [item for made in await asyncio.gather(*compiling) for item in made]
                async with turns.turn(place):
                    await loop.run_in_executor(
                        self._write, self._write_layer, package, key, unpacked, compiled
                    )

    @contextlib.contextmanager
    def _opened(self, package: LockedPackage) -> Iterator[Unpacked]:
        path = self._paths.get(package.sha256)
        if path is None or not is_whole(path, package.sha256):
            raise FetchError(
                f"{package.filename} isn't on this machine any more.",
                "Run the same command again to fetch it.",
            )
        if package.manager == "conda":
            folder = self._new_folder()
            yield link_package(package, path, self._python, folder)
            self._advance(package.size)
            shutil.rmtree(folder)
        elif self._python is None:
            raise PackageError(
                f"{package.filename} needs Python, which the lock doesn't hold.", "Add python to the spec."
            )
        else:
            with open_wheel(path, package, self._python, _at_most(package.size, self._advance)) as unpacked:
                yield unpacked

    def _interpreter(self, packages: Sequence[LockedPackage]) -> Path:
        """Return the program of the image's Python; it is unpacked once on this machine."""
        key = hashlib.sha256("".join(x.sha256 for x in packages).encode()).hexdigest()
        kept = self._store.home.interpreters / key
        if is_sealed(kept):
            check_folder(kept)
        else:
            shutil.rmtree(kept, ignore_errors=True)  # of a version that didn't seal
            for package in packages:
                is_whole(self._paths[package.sha256], package.sha256)
            made = link_interpreter(packages, self._paths, self._new_folder())
            seal_folder(made)
            kept.parent.mkdir(exist_ok=True)
            made.rename(kept)
        return kept / "bin" / "python"

    def _write_layer(
        self, package: LockedPackage, key: str, unpacked: Unpacked, compiled: Sequence[Item]
    ) -> None:
        items = sorted([*unpacked.items, *compiled, unpacked.seal(compiled)], key=lambda x: x.path)
        path = self._new_path()
        with path.open("wb", BUFFER) as file:
            if room := sum(512 + x.size for x in items):
                os.posix_fallocate(file.fileno(), 0, room)  # cheaper than growing, and a full disk shows now
            writer = LayerWriter(file, unpacked.label)
            for item in items:
                self._advance(0)
                if found := writer.add(item.entry, item.chunks()):
                    check_hash(unpacked.label, item.path, item.sha256 or found, found)
            diff_id = writer.close()
        layer = Layer(diff_id, writer.size, (f"{package.name} {package.version}",))
        held = {x.entry.path: x.sha256 if x.link is None else link_to(x.link) for x in items if not x.folder}
        files: dict[str, File] = {x: (held.get(x, FOLDER), *place) for x, place in writer.places.items()}
        if large := {x.entry.path: x.sha256 for x in items if x.size > LARGE}:
            self._store.write_json(UNCHECKED, key, {"label": unpacked.label, "stated": large})
        self._store.save_layer(key, layer, path, files)

    def _advance(self, size: int) -> None:
        """Tell what is done; end a thread's work, between two chunks, when all is to end."""
        if self._stopped.is_set():
            raise _StoppedError
        self._told(size)

    def _new_path(self) -> Path:
        return self._folder / str(next(self._numbers))

    def _new_folder(self) -> Path:
        folder = self._new_path()
        folder.mkdir()
        return folder


class _Turns:
    """A semaphore that lets the lowest place of those who wait go first."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    @contextlib.asynccontextmanager
    async def turn(self, place: int) -> AsyncIterator[None]:
        if self._free:
            self._free -= 1
        else:
            ready = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (place, ready))
            await ready
        yield  # after an error nobody needs a turn any more
        if self._waiting:
            heapq.heappop(self._waiting)[1].set_result(None)
        else:
            self._free += 1


class _StoppedError(Exception):
    """The build was interrupted or another package failed: nobody waits for this one any more."""


def _at_most(limit: int, advance: Callable[[int], None]) -> Callable[[int], None]:
    """Return what passes on `limit` bytes at most: a source is read twice, once to be compiled."""
    lock, left = threading.Lock(), limit

    def up_to(size: int) -> None:
        nonlocal left
        with lock:
            step = min(size, left)
            left -= step
        advance(step)

    return up_to
