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
from lockstep.progress import Task

PAUSE = 0.5  # seconds between looks; a build with nothing to do is over before the first


@contextlib.contextmanager
def head_start(api: Any, store: Store, so_far: Callable[[], Sequence[ImageLayer]]) -> Iterator[None]:
    """Load what `so_far()` tells, in a thread, until the block ends; the step under way is finished.

    `so_far` returns the image's layers from the bottom that are in the store; it is called again and again.
    """
    over = threading.Event()
    loading = Loading(api, store)

    def work() -> None:
        looked = False
        while not over.wait(PAUSE):
            with contextlib.suppress(LockstepError, OSError):
                layers = so_far()
                if not looked and layers:
                    loading.look(layers)
                    looked = True
                if len(layers) > len(loading.present):
                    loading.grow(layers, Task(), over)

    thread = threading.Thread(target=work, name="head start", daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        over.set()
        thread.join()
        loading.forget_steps()
        raise
    over.set()
    thread.join()
