"""Inflate: entries of a zip as streams, as fast as this machine can, from many threads at once.

The standard library reads the directory; the bytes come through ISA-L (docs/decisions/16). The checks are
the ones that tell a damaged or a deceitful archive from a good one: local header, size and CRC-32.
"""

from __future__ import annotations

import contextlib
import errno
import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from isal import igzip_lib, isal_zlib

_IsalError: type[Exception] = igzip_lib.IsalError  # type: ignore[assignment]  # the stub says an instance
_DAMAGED = (
    NotImplementedError,
    RuntimeError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    _IsalError,
)
"""What reading a zip can raise that is the zip's own fault; `damaged_zip` adds what an OSError may mean."""

READ = 1 << 17
WRITE = 1 << 18  # small enough to stay in the processor's cache until it is hashed and written
_LOCAL = struct.Struct("<4s5H3L2H")  # APPNOTE 4.3.7


@contextlib.contextmanager
def damaged_zip() -> Iterator[None]:
    """Turn whatever a zip's own fault raises into BadZipFile; a disk's errors stay what they are.

    bz2 raises OSError without a number for damaged data, and `seek` EINVAL for an offset that can't be.
    """
    try:
        yield
    except zipfile.BadZipFile:
        raise
    except _DAMAGED as error:
        raise zipfile.BadZipFile(str(error) or type(error).__name__) from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):
            raise
        raise zipfile.BadZipFile(error.strerror or str(error)) from error


class ZipReader:
    """A zip file open for reading; `advance` is told the compressed bytes as they are used up."""

    def __init__(self, path: Path, advance: Callable[[int], object] = lambda _: None) -> None:
        self._file = path.open("rb")
        self._advance = advance
        try:
            with damaged_zip():
                self.directory = zipfile.ZipFile(self._file)
        except Exception:
            self._file.close()
            raise

    def close(self) -> None:
        self.directory.close()
        self._file.close()

    def chunks(self, item: zipfile.ZipInfo) -> Iterator[bytes]:
        """Yield an entry's content. Raises BadZipFile if it isn't what the directory says, or can't be read."""
        with damaged_zip():
            yield from self._checked(item)

    def _checked(self, item: zipfile.ZipInfo) -> Iterator[bytes]:
        start = self._content_start(item)
        if item.compress_type == zipfile.ZIP_STORED:
            content = self._raw(start, item.compress_size)
        elif item.compress_type == zipfile.ZIP_DEFLATED:
            content = self._inflated(start, item)
        else:
            content = self._by_library(item)
        crc, left = 0, item.file_size
        for chunk in content:
            left -= len(chunk)
            if left < 0:
                break
            crc = isal_zlib.crc32(chunk, crc)
            yield chunk
        if left or crc != item.CRC:
            raise zipfile.BadZipFile(f"the content of {item.filename!r} isn't what the archive says")

    def _content_start(self, item: zipfile.ZipInfo) -> int:
        header = os.pread(self._file.fileno(), _LOCAL.size, item.header_offset)
        if len(header) < _LOCAL.size:
            raise zipfile.BadZipFile("truncated")
        magic, _, flags, *_, name_size, extra_size = _LOCAL.unpack(header)
        name = os.pread(self._file.fileno(), name_size, item.header_offset + _LOCAL.size)
        if magic != b"PK\3\4" or name.decode("utf-8" if flags & 0x800 else "cp437") != item.orig_filename:
            raise zipfile.BadZipFile(f"the archive has two names for {item.filename!r}")
        if flags & 0x1:
            raise zipfile.BadZipFile(f"{item.filename!r} is encrypted")
        return item.header_offset + _LOCAL.size + int(name_size) + int(extra_size)

    def _raw(self, start: int, size: int, step: int = WRITE) -> Iterator[bytes]:
        end = start + size
        while start < end:
            chunk = os.pread(self._file.fileno(), min(step, end - start), start)
            if not chunk:
                raise zipfile.BadZipFile("truncated")
            start += len(chunk)
            self._advance(len(chunk))
            yield chunk

    def _inflated(self, start: int, item: zipfile.ZipInfo) -> Iterator[bytes]:
        if max(item.file_size, item.compress_size) <= WRITE:  # at once: most entries are small
            data = b"".join(self._raw(start, item.compress_size))
            yield isal_zlib.decompress(data, -15, max(item.file_size, 1))
            return
        inflater: Any = isal_zlib.decompressobj(-15)
        for data in self._raw(start, item.compress_size, READ):
            while data and not inflater.eof:
                if chunk := inflater.decompress(data, WRITE):
                    yield chunk
                data = inflater.unconsumed_tail
        while not inflater.eof and (chunk := inflater.decompress(b"", WRITE)):
            yield chunk

    def _by_library(self, item: zipfile.ZipInfo) -> Iterator[bytes]:
        with self.directory.open(item) as stream:
            while chunk := stream.read(WRITE):
                yield chunk
        self._advance(item.compress_size)


def is_symlink(item: zipfile.ZipInfo) -> bool:
    """Say whether an entry was zipped as a symlink."""
    return stat.S_ISLNK(item.external_attr >> 16)
