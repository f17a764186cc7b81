"""Run by the image's Python, never imported: compiles what it reads from stdin and writes it to stdout.

Asked: a 4-byte count, and as often two 4-byte sizes, a path, a source. Told, when all has been read: for
each a 4-byte size and a .pyc of that size, or -1 for what is no valid Python. First of all it tells its
cache tag, the same way.

marshal marks an object for reuse if anything else refers to it, so its bytes would depend on which names
some earlier file had interned. Here every name and constant of a file is held while it is written, so
all are marked and the bytes depend on the file alone (docs/decisions/17).
"""

from __future__ import annotations

import gc
import marshal
import posix
import struct
import sys
from importlib import util
from types import CodeType

FLAGS = struct.pack("<I", 1)  # PEP 552: hash-based, unchecked


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
    """Return a .pyc's bytes, or None for what doesn't compile."""
    try:
        code = compile(source, path, "exec", dont_inherit=True, optimize=0)
    except Exception:  # whatever is wrong with the file, Python will say it when somebody imports it
        return None
    holding = held(code)
    data = marshal.dumps(code)
    del holding
    return util.MAGIC_NUMBER + FLAGS + util.source_hash(source) + data


def tell(data: bytes | None) -> None:
    """Write an answer."""
    sys.stdout.buffer.write(struct.pack(">i", -1) if data is None else struct.pack(">i", len(data)) + data)


def main() -> None:
    """Answer until the other side closes."""
    posix.setpgid(0, 0)  # Ctrl-C is for the build, which ends this process itself
    gc.disable()  # code objects hold no cycles
    tell(sys.implementation.cache_tag.encode())
    sys.stdout.buffer.flush()
    read = sys.stdin.buffer.read
    while count := read(4):
        asked = []
        for _ in range(*struct.unpack(">I", count)):
            path_size, source_size = struct.unpack(">II", read(8))
            asked.append((read(path_size).decode("utf-8", "surrogateescape"), read(source_size)))
        answers = [compiled(path, source) for path, source in asked]
        for answer in answers:
            tell(answer)
        sys.stdout.buffer.flush()


main()
