"""Progress: what long work tells the person who waits, on a terminal or in a log.

Stages of the pipeline take a `Progress` and know nothing of terminals. `Progress` itself is silent;
`terminal.py` has the one that draws.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class Task:
    """One piece of work under way, counted in bytes or in things."""

    def advance(self, amount: int = 1) -> None:
        """Say that `amount` more units are done. Threads may call this at once."""


class Progress:
    """A listener to long work; this one says nothing. Subclasses draw or print."""

    def say(self, text: str) -> None:
        """Tell one line that stays (a decision, a warning, what was reused)."""

    @contextlib.contextmanager
    def task(self, text: str, total: int | None = None, *, unit: str = "bytes") -> Iterator[Task]:
        """Show `text` with a bar of `total` units (`bytes`, or a plural noun) until the block ends."""
        yield Task()


SILENT = Progress()
