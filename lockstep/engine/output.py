r"""A container's output as lines: from blocks that end anywhere to whole lines, as they come.

A progress bar redraws its line with `\r` many times a second. The newest state of such a line is handed
on at most once a second, and its last state always, so bars stay alive in a terminal and short in a log.
"""

from __future__ import annotations

import time
from collections.abc import Callable

OnLine = Callable[[bytes], None]

BAR_SECONDS = 1.0
LONGEST = 64 * 1024


class Lines:
    """Splits one stream into lines for `on_line`, without their ends; a line over 64 KiB comes in pieces."""

    def __init__(self, on_line: OnLine) -> None:
        self._on_line = on_line
        self._rest = b""
        self._bar_told = 0.0

    def write(self, block: bytes) -> None:
        """Take the next bytes of the stream."""
        *lines, self._rest = (self._rest + block).split(b"\n")
        for line in lines:
            self._tell(self._last_state(line))
        if b"\r" in self._rest.rstrip(b"\r"):
            self._rest = self._bar(self._rest)
        while len(self._rest) > LONGEST:
            self._tell(self._rest[:LONGEST])
            self._rest = self._rest[LONGEST:]

    def close(self) -> None:
        """Hand on what is left without a line's end."""
        if self._rest:
            self._tell(self._last_state(self._rest))
            self._rest = b""

    def _bar(self, rest: bytes) -> bytes:
        """Hand on the newest whole state of a redrawn line, once a second; return the unfinished one."""
        states, _, unfinished = rest.rpartition(b"\r")
        if time.monotonic() - self._bar_told >= BAR_SECONDS:
            self._bar_told = time.monotonic()
            self._tell(self._last_state(states))
            return unfinished
        return self._last_state(states) + b"\r" + unfinished

    def _tell(self, line: bytes) -> None:
        self._on_line(line)

    @staticmethod
    def _last_state(line: bytes) -> bytes:
        r"""Return what a terminal would show of `line`: what follows the last `\r` that isn't its end."""
        return line.rstrip(b"\r").rpartition(b"\r")[2]
