"""A head start: layers go into the engine while later ones are still being made.

It is help, not a promise: whatever fails here, `deliver` does it again and says what is wrong.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lockstep.engine.loading import Loading
from lockstep.errors import LockstepError
from lockstep.image import ImageLayer
from lockstep.image.store import Store

PAUSE = 0.5  # seconds between looks; a build with nothing to do is over before the first


@contextlib.contextmanager
def head_start(
    api: Any, store: Store, so_far: Callable[[], Sequence[ImageLayer]]
) -> Iterator[Callable[[], Loading]]:
    """Load what `so_far()` tells, in a thread; the value, when called, ends that and hands the loading over.

    `so_far` returns the image's layers from the bottom that are in the store; it is called again and again.
    """
    over = threading.Event()

    def work() -> None:
        looked = False
        try:
            while not over.wait(PAUSE):
                layers = so_far()
                if not looked and layers:
                    loading.look(layers)
                    looked = True
                loading.grow(layers, over)
        except (LockstepError, OSError):
            loading.start_over()

    def taken_over() -> Loading:
        over.set()
        thread.join()
        return loading

    with Loading(api, store) as loading:
        thread = threading.Thread(target=work, name="head start", daemon=True)
        thread.start()
        try:
            yield taken_over
        finally:
            taken_over()
