"""Run by the image's Python, never imported: compiles what it reads from stdin and writes it to stdout.

Asked: a 4-byte count, and as often two 4-byte sizes, a path, a source. Told, when all has been read: for
each a 4-byte size and a .pyc of that size; -1 for what is no valid Python; or -2 and, with its size, what
kept this process from compiling it. First of all it tells its cache tag, the same way.

marshal marks an object for reuse if anything else refers to it, so its bytes would depend on which names
some earlier file had interned. Here every name and constant of a file is held while it is written, so
all are marked and the bytes depend on the file alone (docs/decisions/17).
"""

from __future__ import annotations

import _thread
import gc
import marshal
import mmap
import posix
import struct
import sys
from importlib import util
from types import CodeType

FLAGS = struct.pack("<I", 1)  # PEP 552: hash-based, unchecked
INVALID = (SyntaxError, ValueError, OverflowError, RecursionError)
"""What follows from the source and the Python alone; RecursionError does as `main` has a stack of fixed size."""

STACK = 64 << 20
ROOM = 256 << 20, 1024
"""Bytes of memory that compiling takes at most: so many, or so many for each byte of the source."""


def held(code: CodeType) -> list[object]:
    """Return everything that marshal writes of a code object and that something else may share."""
    found: list[object] = []
    codes = [code]
    while codes:
        one = codes.pop()
        found += (one.co_name, one.co_filename, getattr(one, "co_qualname", None))
        found += one.co_names + one.co_varnames + one.co_freevars + one.co_cellvars
        constants = list(one.co_consts)
        while constants:
            value = constants.pop()
            found.append(value)
            if isinstance(value, CodeType):
                codes.append(value)
            elif isinstance(value, (tuple, frozenset)):
                constants += value
    return found


def compiled(path: str, source: bytes) -> bytes | None:
    """Return a .pyc's bytes, or None for what isn't valid Python, which Python will say on import."""
    try:
        code = compile(source, path, "exec", dont_inherit=True, optimize=0)
        holding = held(code)
        data = marshal.dumps(code)
        del holding
    except INVALID:
        return None
    except MemoryError:  # also the parser's word for what is nested too deeply
        if has_room(len(source)):
            return None
        raise
    return util.MAGIC_NUMBER + FLAGS + util.source_hash(source) + data


def has_room(size: int) -> bool:
    """Say whether this process could have had the memory that compiling `size` bytes takes."""
    try:
        mmap.mmap(-1, max(ROOM[0], size * ROOM[1])).close()
    except (MemoryError, OSError):
        return False
    return True


def answer(path: str, source: bytes) -> bytes:
    """Return the answer for a file."""
    try:
        data = compiled(path, source)
    except BaseException as error:  # the build ends with it: another machine would have the .pyc
        why = f"{type(error).__name__} {error}".encode("utf-8", "replace")
        return struct.pack(">ii", -2, len(why)) + why
    return struct.pack(">i", -1) if data is None else sized(data)


def sized(data: bytes) -> bytes:
    """Return bytes with their number before them."""
    return struct.pack(">i", len(data)) + data


def main() -> None:
    """Answer until the other side closes."""
    gc.disable()  # code objects hold no cycles
    sys.stdout.buffer.write(sized(sys.implementation.cache_tag.encode()))
    sys.stdout.buffer.flush()
    read = sys.stdin.buffer.read
    while count := read(4):
        asked = []
        for _ in range(*struct.unpack(">I", count)):
            path_size, source_size = struct.unpack(">II", read(8))
            asked.append((read(path_size).decode("utf-8", "surrogateescape"), read(source_size)))
        answers = [answer(path, source) for path, source in asked]
        sys.stdout.buffer.writelines(answers)
        sys.stdout.buffer.flush()


def ending(done: _thread.LockType) -> None:
    """Run `main`, and say when it is over."""
    try:
        main()
    finally:
        done.release()


posix.setpgid(0, 0)  # Ctrl-C is for the build, which ends this process itself
posix.dup2(posix.open("/dev/null", posix.O_WRONLY), 2)  # what goes wrong from here on is said by the build
_thread.stack_size(STACK)
over = _thread.allocate_lock()
over.acquire()
_thread.start_new_thread(ending, (over,))
over.acquire()
