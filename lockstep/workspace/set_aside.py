"""Set aside: what failed once is tried again later and later, and the rest goes on meanwhile."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

log = logging.getLogger("lockstep.workspace")
LONGEST_SECONDS = 300.0


class SetAside:
    """Things by name, each with how often it failed and when it may be tried again: 1, 2, 4, … up to 300 s later.

    `ends_all` tells which errors aren't one thing's trouble: those are raised.
    """

    def __init__(self, ends_all: Callable[[Exception], bool]) -> None:
        self._ends_all = ends_all
        self._failed: dict[str, tuple[int, float]] = {}

    def waits(self, name: str) -> bool:
        """Tell whether the thing isn't to be tried yet."""
        return self._failed.get(name, (0, 0.0))[1] > time.monotonic()

    @contextlib.contextmanager
    def trying(self, name: str) -> Iterator[None]:
        """Try a thing in the block; an error there is logged, and sets it aside."""
        try:
            yield
        except Exception as error:
            if self._ends_all(error):
                raise
            count = self._failed.get(name, (0, 0.0))[0] + 1
            seconds = min(2.0 ** (count - 1), LONGEST_SECONDS)
            self._failed[name] = count, time.monotonic() + seconds
            log.warning("%s failed %d times, again in %.0f s: %r", ascii(name), count, seconds, error)
        else:
            self._failed.pop(name, None)

    def seconds(self) -> float | None:
        """Return how long to wait until the next one may be tried; None where nothing is set aside."""
        if not self._failed:
            return None
        return max(min(moment for _, moment in self._failed.values()) - time.monotonic(), 0.1)
