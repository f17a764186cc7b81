"""Bytecode: .pyc files that the image's own Python compiled, the same whoever builds, in whatever order.

They carry an unchecked hash (PEP 552), so no mtime makes them stale, and the path that they will have in
the image. Compilers are processes of the image's Python, run from a staging prefix on this machine; the
host's Python compiles nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import queue
import struct
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from lockstep.errors import PackageError
from lockstep.image.layer import PREFIX, fits
from lockstep.layers.package import Item, Python

CHUNK = 1 << 20
"""Bytes of source that make one piece of work: about a fifth of a second."""

MAX_SOURCE = 8 << 20
"""Bytes of source beyond which a file is left to be compiled where it is imported, if it ever is: Python
takes some hundred bytes of memory for each, and a build stays below one GiB."""

TESTS = frozenset({"test", "tests"})
"""Folders whose files are left to be compiled where they are imported: a sixth of all source, never run."""

_SERVER = Path(__file__).with_name("compile_server.py").read_text()
_ASK = struct.Struct(">II")
_TELL = struct.Struct(">i")
_FAILED = -2  # instead of a size: why it isn't compiled follows


def sources(items: Iterable[Item], python: Python) -> Iterator[list[Item]]:
    """Yield the files that are compiled, sorted, in pieces of work: a package's modules but its tests."""
    piece: list[Item] = []
    size = 0
    for item in sorted(items, key=lambda x: x.path):
        is_source = item.path.endswith(".py") and item.path.startswith(f"{python.modules}/")
        is_test = not TESTS.isdisjoint(item.path.split("/"))
        if is_source and not is_test and item.link is None and item.size <= MAX_SOURCE:
            piece.append(item)
            size += item.size
            if size >= CHUNK:
                yield piece
                piece, size = [], 0
    if piece:
        yield piece


def source_of(path: str) -> str | None:
    """Return the source of bytecode in __pycache__ (PEP 3147), or None if `path` is no such bytecode."""
    folder, name = posixpath.split(path)
    if posixpath.basename(folder) != "__pycache__" or not name.endswith(".pyc"):
        return None
    return posixpath.join(posixpath.dirname(folder), name.split(".", 1)[0] + ".py")


class Compiler:
    """Compiles with up to `count` processes at once; they start with the first file. Threads may share it.

    `interpreter` gives the program's path and may take its time: it is asked once, before the first file.
    """

    def __init__(self, interpreter: Callable[[], Path], count: int) -> None:
        self._interpreter = interpreter
        self._program: Path | None = None
        self._starting = threading.Lock()
        self._free: queue.Queue[_Server | None] = queue.Queue()
        self._started: list[_Server] = []
        self._closed = False
        for _ in range(count):
            self._free.put(None)

    def compile(self, piece: Sequence[Item], spool: Path) -> list[Item]:
        """Compile a piece of work into one file, `spool`, and return the .pyc items, which read from it.

        What isn't valid Python is left out, as pip leaves it. Raises PackageError if a file isn't compiled
        for another reason, such as want of memory: an image without its .pyc would be another image.
        """
        server = self._free.get()
        try:
            if server is None:
                server = self._start()
            made, offset = [], 0
            with spool.open("wb") as file:
                for item, data in zip(piece, server.compile(piece), strict=True):
                    path = server.cached(item.path)
                    if data is not None and fits(path):  # Python can't write it either
                        file.write(data)
                        sha256 = hashlib.sha256(data).hexdigest()
                        made.append(Item(path, len(data), sha256, chunks=_slice(spool, offset, len(data))))
                        offset += len(data)
            return made
        finally:
            self._free.put(server)

    def _start(self) -> _Server:
        with self._starting:
            if self._closed:
                raise RuntimeError("closed: nobody waits for this piece any more")
            if self._program is None:
                self._program = self._interpreter()
            server = _Server(self._program)
            self._started.append(server)
            return server

    def close(self) -> None:
        """End the processes, also in the middle of a file."""
        with self._starting:
            self._closed = True
        for server in self._started:
            server.kill()


class _Server:
    """One process of the image's Python that runs compile_server.py."""

    def __init__(self, interpreter: Path) -> None:
        # -S and -s: no .pth file or user's package has a say; the hash seed orders sets before 3.11.
        command = [
            str(interpreter),
            "-B",
            "-S",
            "-s",
            "-W",
            "ignore",
            "-X",
            "utf8",
            "-c",
            _SERVER,
        ]
        environment = {"PYTHONHASHSEED": "0", "LANG": "C.UTF-8"}
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                cwd="/",  # the first place where modules are looked for
            )
        except OSError as error:
            raise _no_start(interpreter) from error
        try:
            self._tag = self._read(self._size()).decode()
        except OSError as error:
            self.kill()
            raise _no_start(interpreter) from error

    def cached(self, path: str) -> str:
        """Return where the bytecode of a source goes (PEP 3147)."""
        folder, name = posixpath.split(path)
        return posixpath.join(folder, "__pycache__", f"{name[:-3]}.{self._tag}.pyc")

    def compile(self, piece: Sequence[Item]) -> list[bytes | None]:
        """Return the .pyc of each file, or None for what doesn't compile.

        All are asked for at once: waiting for each would cost a turn at this process's lock per file.
        """
        asked = [struct.pack(">I", len(piece))]
        for item in piece:
            path, source = f"{PREFIX}/{item.path}".encode("utf-8", "surrogateescape"), item.read()
            asked += (_ASK.pack(len(path), len(source)), path, source)
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(b"".join(asked))
            self._process.stdin.flush()
            return [self._answer(item) for item in piece]
        except OSError as error:
            raise PackageError(
                f"The image's Python died while it compiled {piece[0].path} or a file after it.",
                "If the machine is short of memory, free some and run the same command again; else pin "
                "another version of the package or of Python.",
            ) from error

    def _answer(self, item: Item) -> bytes | None:
        size = self._size()
        if size == _FAILED:
            why = self._read(self._size()).decode("utf-8", "replace").strip()
            raise PackageError(
                f"The image's Python couldn't compile {item.path}: {why}.",
                "Free some memory, or lift this shell's limit of it (`ulimit -v unlimited`), and run the same "
                "command again; if it stays so, pin another version of the package or of Python.",
            )
        return None if size < 0 else self._read(size)

    def _size(self) -> int:
        return int(_TELL.unpack(self._read(_TELL.size))[0])

    def _read(self, size: int) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(size)
        if len(data) < size:
            raise OSError("the compiler ended")
        return data

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what was still to be written to a dead process
                    stream.close()


def _slice(path: Path, offset: int, size: int) -> Callable[[], Iterable[bytes]]:
    def read() -> Iterator[bytes]:
        with path.open("rb") as file:
            yield os.pread(file.fileno(), size, offset)

    return read


def _no_start(interpreter: Path) -> PackageError:
    return PackageError(
        f"The image's Python doesn't run on this machine ({interpreter.name} ended at once).",
        "Its platform or its C library may be newer than this machine's: choose another Python in the spec.",
    )
