"""Blobs: bytes streamed to and from files, the way Azure's blob storage does it, and never half a file."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import uuid
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from pathlib import Path
from typing import BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from lockstep.workspace.fault import Fault

PUT_LIMIT = 5 * 1024**3
LIST_LIMIT = 16 * 1024**2
PIECE = 1024**2
XML = '<?xml version="1.0" encoding="utf-8"?>'
BLOCK_ID = re.compile(r"<(?:Latest|Committed|Uncommitted)>([^<]+)</")
RANGE = re.compile(r"bytes=(\d+)-(\d*)")


async def put(request: Request, target: Path, work: Path) -> Response:
    """Take a Put Blob, Put Block or Put Block List for `target`; the file appears whole, when all has arrived.

    `work` is a folder on the same disk for what is under way. `If-None-Match: *` refuses to replace (409).
    """
    if request.headers.get("if-none-match") == "*" and target.exists():
        raise Fault(409, "The blob exists already.", "BlobAlreadyExists")
    kind = request.query_params.get("comp", "")
    blocks = work / f"blocks-{hashlib.sha256(str(target).encode()).hexdigest()[:32]}"
    if kind == "block":
        block = blocks / hashlib.sha256(request.query_params.get("blockid", "").encode()).hexdigest()
        return created(await _receive(request, block, work))
    if kind == "blocklist":
        return created(await run_in_threadpool(_join, await _small_body(request), blocks, target, work))
    if kind:
        raise Fault(400, f"The embedded workspace's blobs don't do comp={kind}.", "UnsupportedQueryParameter")
    return created(await _receive(request, target, work))


async def _receive(request: Request, target: Path, work: Path) -> bytes:
    """Stream the body into `target`; return its MD5, which must be the one that the client said."""
    digest, size, held = hashlib.md5(usedforsecurity=False), 0, bytearray()
    partial = work / uuid.uuid4().hex
    file = await run_in_threadpool(partial.open, "wb")
    try:
        with file:
            async for piece in request.stream():
                size += len(piece)
                if size > PUT_LIMIT:
                    raise Fault(413, f"A blob's PUT is at most {PUT_LIMIT >> 30} GB.", "RequestBodyTooLarge")
                held += piece
                if len(held) >= PIECE:
                    await run_in_threadpool(_write, file, digest, bytes(held))
                    held.clear()
            await run_in_threadpool(_write, file, digest, bytes(held))
        said = request.headers.get("content-md5")
        if said and said != base64.b64encode(digest.digest()).decode():
            raise Fault(400, "The blob's bytes don't have the MD5 that was sent.", "Md5Mismatch")
        await run_in_threadpool(_place, partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return digest.digest()


def _write(file: BinaryIO, digest: hashlib._Hash, data: bytes) -> None:
    digest.update(data)
    file.write(data)


def _place(partial: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(target)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise Fault(409, f"{target.name!r} is a file and a folder at once.", "BlobPathConflict") from error


async def _small_body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > LIST_LIMIT:
            raise Fault(413, "The list of blocks is too long.", "RequestBodyTooLarge")
    return bytes(body)


def _join(listing: bytes, blocks: Path, target: Path, work: Path) -> bytes:
    """Make the blob from its blocks, in the order of the list."""
    partial = work / uuid.uuid4().hex
    try:
        with partial.open("wb") as joined:
            for name in BLOCK_ID.findall(listing.decode("utf-8", "replace")):
                block = blocks / hashlib.sha256(name.encode()).hexdigest()
                if not block.is_file():
                    raise Fault(400, "The list names a block that was never sent.", "InvalidBlockList")
                with block.open("rb") as part:
                    shutil.copyfileobj(part, joined, PIECE)
        _place(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    shutil.rmtree(blocks, ignore_errors=True)
    return b""


def created(digest: bytes) -> Response:
    """Return the 201 of a PUT, with the headers that the storage client reads."""
    headers = {"ETag": f'"{uuid.uuid4().hex}"', "Last-Modified": formatdate(usegmt=True), **_always()}
    if digest:
        headers["Content-MD5"] = base64.b64encode(digest).decode()
    return Response(status_code=201, headers=headers)


def send(request: Request, path: Path, *, download_as: str = "") -> Response:
    """Answer GET or HEAD with a file as it is now, also while it grows; `Range` and `x-ms-range` are understood."""
    if not path.is_file():
        raise Fault(404, "The blob doesn't exist.", "BlobNotFound")
    facts = path.stat()
    headers = {
        "ETag": f'"{facts.st_mtime_ns:x}-{facts.st_size:x}"',
        "Last-Modified": formatdate(facts.st_mtime, usegmt=True),
        "x-ms-blob-type": "BlockBlob",
        "Accept-Ranges": "bytes",
        **_always(),
    }
    if download_as:
        headers["Content-Disposition"] = f'attachment; filename="{download_as}"'
    first, last, status = 0, facts.st_size - 1, 200
    asked = RANGE.fullmatch(request.headers.get("x-ms-range") or request.headers.get("range") or "")
    if asked:
        first = int(asked[1])
        if first >= facts.st_size:
            raise Fault(416, "The range begins behind the blob's end.", "InvalidRange")
        last = min(int(asked[2] or last), last)
        status = 206
        headers["Content-Range"] = f"bytes {first}-{last}/{facts.st_size}"
    headers["Content-Length"] = str(max(last - first + 1, 0))
    kind = "text/plain; charset=utf-8" if path.suffix in (".txt", ".log") else "application/octet-stream"
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=kind)
    return StreamingResponse(_read(path, first, last - first + 1), status, headers, media_type=kind)


async def _read(path: Path, start: int, count: int) -> AsyncIterator[bytes]:
    """Yield `count` bytes of a file from `start`: no more, even if it grows meanwhile."""
    file = await run_in_threadpool(path.open, "rb")
    try:
        await run_in_threadpool(file.seek, start)
        while count > 0 and (piece := await run_in_threadpool(file.read, min(PIECE, count))):
            count -= len(piece)
            yield piece
    finally:
        await run_in_threadpool(file.close)


def refused(fault: Fault) -> Response:
    """Return a refusal as blob storage writes it: XML, and the code in a header."""
    body = f"{XML}<Error><Code>{fault.code}</Code><Message>{_xml(fault.message)}</Message></Error>"
    headers = {"x-ms-error-code": fault.code, **_always()}
    return Response(body, fault.status, headers, media_type="application/xml")


def listing(root: Path, prefix: str, may_read: Callable[[str], bool]) -> Response:
    """Return List Blobs: every file below `root` whose path begins with `prefix` and may be read."""
    items = []
    for file in sorted(root.rglob("*")):
        path = file.relative_to(root).as_posix()
        if path.startswith(prefix) and may_read(path) and file.is_file() and not file.is_symlink():
            facts = file.stat()
            items.append(
                f"<Blob><Name>{_xml(path)}</Name><Properties>"
                f"<Last-Modified>{formatdate(facts.st_mtime, usegmt=True)}</Last-Modified>"
                f'<Etag>"{facts.st_mtime_ns:x}"</Etag><Content-Length>{facts.st_size}</Content-Length>'
                "<BlobType>BlockBlob</BlobType></Properties></Blob>"
            )
    body = (
        f'{XML}<EnumerationResults ServiceEndpoint="" ContainerName="{_xml(root.name)}">'
        f"<Prefix>{_xml(prefix)}</Prefix><Blobs>{''.join(items)}</Blobs><NextMarker /></EnumerationResults>"
    )
    return Response(body, headers=_always(), media_type="application/xml")


def _always() -> dict[str, str]:
    return {"x-ms-request-id": str(uuid.uuid4()), "x-ms-version": "2019-02-02"}


def _xml(value: str) -> str:
    return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
