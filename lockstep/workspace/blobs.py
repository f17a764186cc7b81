"""Blobs: bytes streamed to and from files, the way Azure's blob storage does it, and never half a file."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import mimetypes
import os
import re
import shutil
import uuid
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from lockstep.copies import Allowance
from lockstep.root import Root
from lockstep.workspace.fault import Fault

PUT_LIMIT = 5 * 1024**3
LIST_LIMIT = 16 * 1024**2
BLOCKS_LIMIT = 50_000  # Azure's, of Put Block List
PIECE = 1024**2
XML = '<?xml version="1.0" encoding="utf-8"?>'
BLOCK_ID = re.compile(r"<(?:Latest|Committed|Uncommitted)>([^<]+)</")
RANGE = re.compile(r"bytes=(\d+)-(\d*)")


async def put(request: Request, root: Root, name: str, work: Path) -> Response:
    """Take a Put Blob, Put Block or Put Block List for the file `name`; it appears whole, when all has arrived.

    `work` is a folder on the same disk for what is under way. `If-None-Match: *` refuses to replace (409).
    """
    replace = request.headers.get("if-none-match") != "*"
    kind = request.query_params.get("comp", "")
    blocks = work / f"blocks-{hashlib.sha256(str(root.path / name).encode()).hexdigest()[:32]}"
    partial = work / uuid.uuid4().hex
    digest = b""
    try:
        if kind == "block":
            block = hashlib.sha256(request.query_params.get("blockid", "").encode()).hexdigest()
            digest = await _receive(request, partial)
            await run_in_threadpool(_place, partial, Root(blocks), block)
        elif kind == "blocklist":
            await run_in_threadpool(_join, await _small_body(request), Root(blocks), partial)
            await run_in_threadpool(_place, partial, root, name, replace=replace)
            await run_in_threadpool(shutil.rmtree, blocks, ignore_errors=True)
        elif kind:
            raise Fault(
                400, f"The embedded workspace's blobs don't do comp={kind}.", "UnsupportedQueryParameter"
            )
        else:
            if not replace and await run_in_threadpool(_exists, root, name):
                raise _exists_already()  # before its bytes are sent
            digest = await _receive(request, partial)
            await run_in_threadpool(_place, partial, root, name, replace=replace)
    finally:
        partial.unlink(missing_ok=True)
    return created(digest)


async def _receive(request: Request, partial: Path) -> bytes:
    """Stream the body into the file `partial`; return its MD5, which must be the one that the client said."""
    digest, size, held = hashlib.md5(usedforsecurity=False), 0, bytearray()
    with await run_in_threadpool(partial.open, "wb") as file:
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
    return digest.digest()


def _write(file: BinaryIO, digest: hashlib._Hash, data: bytes) -> None:
    digest.update(data)
    file.write(data)


def _place(partial: Path, root: Root, name: str, *, replace: bool = True) -> None:
    """Move what has arrived to its place, which is opened now, whatever it was before."""
    try:
        root.put(partial, name, replace=replace)
    except FileExistsError as error:
        raise _exists_already() from error
    except (NotADirectoryError, IsADirectoryError) as error:
        raise Fault(
            409, f"{name!r} is a file and a folder at once, or a link.", "BlobPathConflict"
        ) from error


def _exists(root: Root, name: str) -> bool:
    return root.is_file(name) or root.is_folder(name)


def _exists_already() -> Fault:
    return Fault(409, "The blob exists already.", "BlobAlreadyExists")


async def _small_body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > LIST_LIMIT:
            raise Fault(413, "The list of blocks is too long.", "RequestBodyTooLarge")
    return bytes(body)


def _join(listing: bytes, blocks: Root, partial: Path) -> None:
    """Make the blob from its blocks, in the order of the list, which may name one again and again."""
    names = BLOCK_ID.findall(listing.decode("utf-8", "replace"))
    if len(names) > BLOCKS_LIMIT:
        raise Fault(400, f"The list has more than {BLOCKS_LIMIT:,} blocks.", "BlockListTooLong")
    allowance = Allowance.on(partial.parent)
    with partial.open("wb") as joined:
        for name in names:
            try:
                block = blocks.open(hashlib.sha256(name.encode()).hexdigest())
            except FileNotFoundError as error:
                raise Fault(400, "The list names a block that was never sent.", "InvalidBlockList") from error
            with block:
                if reason := allowance.refusal(os.fstat(block.fileno()).st_size):
                    raise Fault(413, f"The blob isn't made: {reason}.", "RequestBodyTooLarge")
                shutil.copyfileobj(block, joined, PIECE)


def created(digest: bytes) -> Response:
    """Return the 201 of a PUT, with the headers that the storage client reads."""
    headers = {"ETag": f'"{uuid.uuid4().hex}"', "Last-Modified": formatdate(usegmt=True), **_always()}
    if digest:
        headers["Content-MD5"] = base64.b64encode(digest).decode()
    return Response(status_code=201, headers=headers)


async def send(request: Request, root: Root, name: str, *, download_as: str = "") -> Response:
    """Answer GET or HEAD with a file as it is now, also while it grows; `Range` and `x-ms-range` are understood."""
    try:
        file = await run_in_threadpool(root.open, name)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Fault(404, "The blob doesn't exist.", "BlobNotFound") from error
    with contextlib.ExitStack() as stack:
        stack.callback(file.close)
        response = _answer(request, file, name, download_as)
        if isinstance(response, StreamingResponse):  # which closes the file when it has sent it
            stack.pop_all()
        return response


def _answer(request: Request, file: BinaryIO, name: str, download_as: str) -> Response:
    facts = os.fstat(file.fileno())
    headers = {
        "ETag": f'"{facts.st_mtime_ns:x}-{facts.st_size:x}"',
        "Last-Modified": formatdate(facts.st_mtime, usegmt=True),
        "x-ms-blob-type": "BlockBlob",
        "Accept-Ranges": "bytes",
        **_always(),
    }
    kind = "text/plain; charset=utf-8" if name.endswith((".txt", ".log")) else "application/octet-stream"
    if download_as:
        headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(download_as)}"
        headers["X-Content-Type-Options"] = "nosniff"
        kind = mimetypes.guess_type(download_as)[0] or kind
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
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=kind)
    return StreamingResponse(_read(file, first, last - first + 1), status, headers, media_type=kind)


async def _read(file: BinaryIO, start: int, count: int) -> AsyncIterator[bytes]:
    """Yield `count` bytes of a file from `start`: no more, even if it grows meanwhile; then close it."""
    try:
        await run_in_threadpool(file.seek, start)
        while count > 0 and (piece := await run_in_threadpool(file.read, min(PIECE, count))):
            count -= len(piece)
            yield piece
    finally:
        file.close()  # also when the client went away, which would end an `await` here at once


def refused(fault: Fault) -> Response:
    """Return a refusal as blob storage writes it: XML, and the code in a header."""
    body = f"{XML}<Error><Code>{fault.code}</Code><Message>{_xml(fault.message)}</Message></Error>"
    headers = {"x-ms-error-code": fault.code, **_always()}
    return Response(body, fault.status, headers, media_type="application/xml")


def listing(root: Root, prefix: str, may_read: Callable[[str], bool]) -> Response:
    """Return List Blobs: every file below `root` whose path begins with `prefix` and may be read."""
    items = []
    for path, facts in sorted(root.files(), key=lambda each: each[0]):
        if path.startswith(prefix) and may_read(path):
            items.append(
                f"<Blob><Name>{_xml(path)}</Name><Properties>"
                f"<Last-Modified>{formatdate(facts.st_mtime, usegmt=True)}</Last-Modified>"
                f'<Etag>"{facts.st_mtime_ns:x}"</Etag><Content-Length>{facts.st_size}</Content-Length>'
                "<BlobType>BlockBlob</BlobType></Properties></Blob>"
            )
    body = (
        f'{XML}<EnumerationResults ServiceEndpoint="" ContainerName="{_xml(root.path.name)}">'
        f"<Prefix>{_xml(prefix)}</Prefix><Blobs>{''.join(items)}</Blobs><NextMarker /></EnumerationResults>"
    )
    return Response(body, headers=_always(), media_type="application/xml")


def _always() -> dict[str, str]:
    return {"x-ms-request-id": str(uuid.uuid4()), "x-ms-version": "2019-02-02"}


def _xml(value: str) -> str:
    return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
