"""Terminal: progress, tables and summaries as people see them.

On a terminal bars are drawn; elsewhere (CI, a log file) the same things come as plain lines, at most
one every ten seconds for each piece of work. rich is loaded when there is something to draw.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from lockstep.progress import Progress, Task

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_QUIET_SECONDS = 10.0
_documents: list[str] | None = None  # what `only_documents` has kept so far


def print_document(text: str) -> None:
    """Print a document for scripts on standard output."""
    if _documents is None:
        print(text)
    else:
        _documents.append(text)


@contextlib.contextmanager
def only_documents() -> Iterator[None]:
    """Let nothing but documents reach standard output, when the block ends; the rest goes to standard error.

    That holds for child processes and libraries too: it is descriptor 1 that leads elsewhere meanwhile.
    """
    global _documents
    sys.stdout.flush()
    before, _documents = os.dup(1), []
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(before, 1)
        os.close(before)
        documents, _documents = _documents, None
        for text in documents:
            print(text)


def progress() -> Progress:
    """Return the Progress that fits: bars on a terminal, lines elsewhere. It writes to standard error."""
    return _Drawn() if sys.stderr.isatty() else _Printed()


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a plain table on standard output; sizes and seconds are set to the right."""
    from rich.console import Console
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        justify: Literal["left", "right"] = "right" if heading in {"s", "size"} else "left"
        made.add_column(heading, justify=justify, overflow="fold", no_wrap=heading == "run")  # ids are copied
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    shown = Console(highlight=False, markup=False)
    if not shown.is_terminal and "COLUMNS" not in os.environ:
        shown.width = 160  # a log file has room; scripts use --json
    shown.print(made)


def megabytes(size: int) -> str:
    """Return a size in bytes as people read it, in decimal units."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


class _Drawn(Progress):
    """Bars that stay while work goes on and vanish when it's done."""

    def __init__(self) -> None:
        self._bars: Bars | None = None
        self._live = 0
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        with self._lock:
            if self._bars is not None:
                self._bars.console.print(text, markup=False, highlight=False)
            else:
                print(text, file=sys.stderr)

    @contextlib.contextmanager
    def task(self, text: str, total: int | None = None, *, unit: str = "bytes") -> Iterator[Task]:
        with self._lock:
            if self._bars is None:
                self._bars = _new_bars()
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


def _new_bars() -> Bars:
    """Return bars that say what, how far and how fast: bytes as a download, things as a count."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars
    from rich.text import Text

    class Amount(ProgressColumn):
        size, speed, count = DownloadColumn(), TransferSpeedColumn(), MofNCompleteColumn()

        def render(self, task: Any) -> Text:
            if not task.total and not task.completed:  # how much there is isn't known, nor yet how far it is
                return Text()
            if task.fields["unit"] != "bytes":
                return self.count.render(task) + Text(f" {task.fields['unit']}")
            return self.size.render(task) + Text(" ") + self.speed.render(task)

    what, left = TextColumn("{task.description}", markup=False), TimeRemainingColumn(compact=True)
    columns = (what, BarColumn(bar_width=None), Amount(), left)  # the bar takes the room that the words leave
    return Bars(*columns, console=Console(stderr=True), transient=True, expand=True)


class _Printed(Progress):
    """A line every ten seconds while work goes on, and one at its end if there was a wait."""

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def task(self, text: str, total: int | None = None, *, unit: str = "bytes") -> Iterator[Task]:
        counter = _PrintedTask(text, total, unit)
        yield counter
        counter.finish()


class _PrintedTask(Task):
    def __init__(self, text: str, total: int | None, unit: str) -> None:
        self._text, self._total, self._unit = text, total, unit
        self._done = 0
        self._began = self._spoke = time.monotonic()
        self._lock = threading.Lock()

    def advance(self, amount: int = 1) -> None:
        with self._lock:
            self._done += amount
            if time.monotonic() - self._spoke < _QUIET_SECONDS:
                return
            self._spoke = time.monotonic()
        self._say(f"{self._text}: {self._so_far()}")

    def finish(self) -> None:
        """Print the closing line, if there was one to wait for."""
        took = time.monotonic() - self._began
        if took >= 1.0:
            done = f": {self._so_far()}" if self._done else ""
            self._say(f"{self._text}{done} in {took:.1f} s")

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def _so_far(self) -> str:
        if self._unit != "bytes":
            return f"{self._done:,}" + (f" of {self._total:,}" if self._total else "") + f" {self._unit}"
        return megabytes(self._done) + (f" of {megabytes(self._total)}" if self._total else "")
