"""Blocks of output become lines, and progress bars stay short."""

from __future__ import annotations

import pytest

from lockstep.engine import output
from lockstep.engine.output import LONGEST, Lines


def split(*blocks: bytes) -> list[bytes]:
    """Return the lines of a stream that comes in these blocks."""
    lines: list[bytes] = []
    stream = Lines(lines.append)
    for block in blocks:
        stream.write(block)
    stream.close()
    return lines


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_lines_do_not_depend_on_the_blocks(size: int) -> None:
    r"""Blocks may end anywhere, inside `\r\n` and inside a character; empty lines count."""
    text = "one\r\ntwo\n\nfür drei\nrest".encode()
    blocks = [text[at : at + size] for at in range(0, len(text), size)]
    assert split(*blocks) == [b"one", b"two", b"", "für drei".encode(), b"rest"]


def test_bar_tells_its_newest_state_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a bar that is redrawn 1,000 times in 10 s, about ten states and the last one are told."""
    now = 100.0
    monkeypatch.setattr(output.time, "monotonic", lambda: now)
    lines: list[bytes] = []
    stream = Lines(lines.append)
    for step in range(1000):
        now += 0.01
        stream.write(b"\r%d%%" % step)
    stream.write(b"\rdone\nnext\n")
    assert lines[-2:] == [b"done", b"next"]
    assert 10 <= len(lines) <= 13


def test_bar_that_is_cut_off_tells_its_last_state() -> None:
    """The last state of a bar without a line's end isn't lost."""
    assert split(b"1%\r", b"2%\r", b"3%")[-1] == b"3%"
    assert split(b"a\rb\rc\r\n") == [b"c"]


def test_endless_line_comes_in_pieces() -> None:
    """A line longer than 64 KiB comes in pieces, nothing lost."""
    lines = split(*[b"x" * 50_000] * 10)
    assert b"".join(lines) == b"x" * 500_000
    assert max(map(len, lines)) == LONGEST
