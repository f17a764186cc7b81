"""Large files: hashed once per package and machine, in the time that the engine leaves while it takes the image.

While a layer is written its large files are compared in size and CRC-32 only: their sha256 would cost a
sixth of all the work of making layers (docs/decisions/13). What is still to be compared is kept in the
store, so that a build that was interrupted leaves it to the next.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from lockstep.image.store import Store
from lockstep.layers.blob import content_of
from lockstep.layers.package import check_hash, hash_of

UNCHECKED = "unchecked"
"""The kind of record in the store: label and stated hashes, by path, of a package's large files."""


@contextlib.contextmanager
def checked_meanwhile(store: Store, keys: Sequence[str]) -> Iterator[None]:
    """Compare the large files of packages, by key, in a thread, and at the end what is left.

    The thread takes only the processor time that nobody else wants. Raises PackageError, naming package and
    file, for one whose bytes have another hash than stated; the next try says the same.
    """
    over = threading.Event()
    with ThreadPoolExecutor(1, "large files", _give_way) as pool:
        checking = pool.submit(_check, store, keys, over)
        try:
            yield
        finally:
            over.set()
        checking.result()
    _check(store, keys, threading.Event())  # this thread gives way to nobody


def _give_way() -> None:
    with contextlib.suppress(OSError):  # where a sandbox forbids it, it only takes longer for others
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # of this thread


def _check(store: Store, keys: Sequence[str], over: threading.Event) -> None:
    for key in keys:
        if not (record := store.read_json(UNCHECKED, key)) or (layer := store.layer(key)) is None:
            continue
        files = store.files(key)
        for path, stated in record["stated"].items():
            with store.suspected([layer.diff_id]):
                found = hash_of(_until(over, content_of(store.blob(layer.diff_id), *files[path][1:])))
                if over.is_set():
                    return
                check_hash(record["label"], path, stated, found)
        store.write_json(UNCHECKED, key, {})


def _until(over: threading.Event, chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        if over.is_set():
            return
        yield chunk
