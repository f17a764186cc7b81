"""Run logs: a script's output, live, in files that others follow; a gigabyte of it is cut in the middle."""

from __future__ import annotations

import os
from collections import deque

from lockstep.root import Root

LIMIT = 64 * 1024**2
TAIL_LINES = 1000
TAIL_BYTES = 1024**2


class RunLog:
    """One log under one or two names in `root`. Beyond `LIMIT` bytes, only the last lines are kept, for the end.

    A disk that is full doesn't stop the run: `broken` holds the error, and what came after it is lost.
    """

    def __init__(self, root: Root, name: str, *other_names: str) -> None:
        self._file = os.fdopen(root.create(name), "ab", buffering=0)
        for other in other_names:
            root.link(name, other)  # one file, two names: both are live
        self._written = 0
        self._tail: deque[bytes] = deque()
        self._held = 0
        self._left_out = 0
        self.last: deque[bytes] = deque(maxlen=20)
        self.broken: OSError | None = None

    def line(self, line: bytes) -> None:
        """Append one line, without its end."""
        self.last.append(line)
        line += b"\n"
        if self._written + len(line) <= LIMIT and not self._tail:
            self._written += len(line)
            self._write(line)
            return
        self._tail.append(line)
        self._held += len(line)
        while len(self._tail) > TAIL_LINES or self._held > TAIL_BYTES:
            gone = self._tail.popleft()
            self._held -= len(gone)
            self._left_out += len(gone)

    def say(self, text: str) -> None:
        """Append a line of text."""
        self.line(text.encode(errors="replace"))

    def close(self) -> None:
        """Write the kept end, with a line that says how much is missing before it."""
        if self._left_out:
            missing = f"Lockstep left out {self._left_out:,} bytes: a log is at most {LIMIT >> 20} MB"
            self._write(f"[… {missing}. Write more to ./logs.]\n".encode())
        for line in self._tail:
            self._write(line)
        self._tail.clear()
        self._file.close()

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            self.broken = error
