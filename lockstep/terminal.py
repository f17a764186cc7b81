"""Terminal: progress, tables and summaries as people see them.

On a terminal bars are drawn; elsewhere (CI, a log file) the same things come as plain lines, at most
one every ten seconds for each piece of work.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars
from rich.progress import Task as Bar
from rich.table import Table
from rich.text import Text

from lockstep.progress import Progress, Task

_QUIET_SECONDS = 10.0


def console(*, to_stderr: bool = False) -> Console:
    """Return a console that never wraps what scripts may read: full width where there is no terminal."""
    made = Console(stderr=to_stderr, highlight=False, soft_wrap=True, markup=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = 160
    return made


def progress(*, to_stderr: bool = True) -> Progress:
    """Return the Progress that fits: bars on a terminal, lines elsewhere. It writes to standard error."""
    shown = console(to_stderr=to_stderr)
    return _Drawn(shown) if shown.is_terminal else _Printed(shown)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a plain table; the columns whose heading ends in a unit are set to the right."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        numeric = heading.endswith((" MB", " s", " GB")) or heading in {"MB", "s", "size"}
        made.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    return made


def megabytes(size: int) -> str:
    """Return a size in bytes as people read it, in decimal units."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


class _Drawn(Progress):
    """Bars that stay while work goes on and vanish when it's done."""

    def __init__(self, shown: Console) -> None:
        self._console = shown
        self._bars: Bars | None = None
        self._live = 0
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        self._console.print(text)

    @contextlib.contextmanager
    def task(self, text: str, total: int | None = None, *, unit: str = "bytes") -> Iterator[Task]:
        with self._lock:
            if self._bars is None:
                self._bars = Bars(
                    TextColumn("{task.description}"),
                    BarColumn(),
                    _Amount(),
                    TimeRemainingColumn(compact=True),
                    console=self._console,
                    transient=True,
                )
                self._bars.start()
            self._live += 1
            bars = self._bars
            bar = bars.add_task(text, total=total, unit=unit)
        try:
            yield _DrawnTask(bars, bar)
        finally:
            with self._lock:
                bars.remove_task(bar)
                self._live -= 1
                if self._live == 0:
                    bars.stop()
                    self._bars = None


class _DrawnTask(Task):
    def __init__(self, bars: Bars, bar: TaskID) -> None:
        self._bars, self._bar = bars, bar

    def advance(self, amount: int = 1) -> None:
        self._bars.advance(self._bar, amount)


class _Amount(ProgressColumn):
    """How far and how fast: bytes as a download, things as a count."""

    def __init__(self) -> None:
        super().__init__()
        self._size, self._speed, self._count = DownloadColumn(), TransferSpeedColumn(), MofNCompleteColumn()

    def render(self, task: Bar) -> Text:
        if task.fields["unit"] != "bytes":
            return self._count.render(task) + Text(f" {task.fields['unit']}")
        return self._size.render(task) + Text(" ") + self._speed.render(task)


class _Printed(Progress):
    """A line when work begins that takes a while, one every ten seconds, and one at its end."""

    def __init__(self, shown: Console) -> None:
        self._console = shown

    def say(self, text: str) -> None:
        self._console.print(text)

    @contextlib.contextmanager
    def task(self, text: str, total: int | None = None, *, unit: str = "bytes") -> Iterator[Task]:
        counter = _PrintedTask(self._console, text, total, unit)
        yield counter
        counter.finish()


class _PrintedTask(Task):
    def __init__(self, shown: Console, text: str, total: int | None, unit: str) -> None:
        self._console, self._text, self._total, self._unit = shown, text, total, unit
        self._done = 0
        self._began = self._spoke = time.monotonic()
        self._lock = threading.Lock()

    def advance(self, amount: int = 1) -> None:
        with self._lock:
            self._done += amount
            if time.monotonic() - self._spoke < _QUIET_SECONDS:
                return
            self._spoke = time.monotonic()
        self._console.print(f"{self._text}: {self._so_far()}")

    def finish(self) -> None:
        """Print the closing line, if there was one to wait for."""
        took = time.monotonic() - self._began
        if took >= 1.0:
            self._console.print(f"{self._text}: {self._so_far()} in {took:.1f} s")

    def _so_far(self) -> str:
        if self._unit != "bytes":
            return f"{self._done}" + (f" of {self._total}" if self._total else "") + f" {self._unit}"
        return megabytes(self._done) + (f" of {megabytes(self._total)}" if self._total else "")
