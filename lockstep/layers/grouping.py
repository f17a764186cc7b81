"""Grouping: which packages share a layer, as a pure function of the lock; and how shared layers are made.

A big package is a layer of its own, so it is pulled and pushed once, whatever changes around it. Native
libraries come first, then what is made for one Python, big to small; the small ones are last, in one
layer. So a small package more, or another torch, leaves the layers below as they are. Native libraries are
also made soonest, having nothing to compile, and go from small to big: the engine takes layers from the
bottom, and has the first one to work on at once.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from lockstep.image.layer import LayerWriter
from lockstep.lock.locked import LockedPackage

BIG = 4 << 20
"""Bytes, compressed, from which a package is a layer of its own."""

MAX_LAYERS = 100
"""Layers of packages; with a base image's they stay below the engines' limit of 127."""


def group(packages: Iterable[LockedPackage]) -> tuple[tuple[LockedPackage, ...], ...]:
    """Return the packages of each layer, in the order in which layers are unpacked."""
    ordered = sorted(packages, key=lambda x: (-x.size, x.name, x.manager))
    big = [x for x in ordered if x.size >= BIG]
    if len(big) > MAX_LAYERS - 1:
        big = big[: MAX_LAYERS - 1]
    big.sort(
        key=lambda x: (0, x.size, x.name, x.manager) if _is_native(x) else (1, -x.size, x.name, x.manager)
    )
    small = sorted(ordered[len(big) :], key=lambda x: (x.name, x.manager))
    return tuple((x,) for x in big) + ((tuple(small),) if small else ())


def _is_native(package: LockedPackage) -> bool:
    """Tell whether a wheel holds a platform's libraries for any Python: CUDA's, which stay when torch moves."""
    made_for = package.filename.removesuffix(".whl")
    return package.manager == "pip" and "-py3-none-" in made_for and not made_for.endswith("-any")


Places = dict[str, tuple[int, int]]


def merge(parts: Sequence[tuple[Path, Places]], file: BinaryIO) -> tuple[str, int, Places]:
    """Write one sorted layer of the entries of many; return its diff ID, its size and its own places.

    Each part is a layer's file and where its paths are in it. What two parts hold alike is written once.
    """
    writer = LayerWriter(file, "A package")
    streams = [os.open(path, os.O_RDONLY) for path, _ in parts]
    try:
        last = ""
        for path, part in heapq.merge(*(_paths(number, places) for number, (_, places) in enumerate(parts))):
            if path == last or path in writer.places:
                continue
            start, end = parts[part][1][path]
            writer.copy(path, _blocks(streams[part], start, end))
            last = path
        return writer.close(), writer.size, writer.places
    finally:
        for stream in streams:
            os.close(stream)


def _paths(number: int, places: Places) -> Iterator[tuple[str, int]]:
    return ((path, number) for path in sorted(places))


def _blocks(stream: int, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        block = os.pread(stream, min(end - start, 1 << 18), start)
        start += len(block)
        yield block
