"""Blob storage: what the SDK uploads and downloads, at signed addresses instead of with the bearer token.

The storage client takes an address apart at its first two dots and puts it together again; with the dotted
part as user information, `https://embedded.blob.x@host:port/…`, the result is the same address. And
azureml-mlflow reads nothing unless `.blob.core.windows.net/` is in it, hence the path.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Awaitable, Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from lockstep.root import Root
from lockstep.workspace.blobs import listing, put, refused, send
from lockstep.workspace.call import Call, Routes
from lockstep.workspace.data_rights import rights_on_data
from lockstep.workspace.fault import Fault, fault_of
from lockstep.workspace.folder import inside, one_name
from lockstep.workspace.names import checked
from lockstep.workspace.site import Site

log = logging.getLogger("lockstep.workspace")
routes = Routes()
ACCOUNT = "embedded"
DATASTORE = "workspaceblobstore"
CONTAINER = f"/{ACCOUNT}.blob.core.windows.net"
Endpoint = Callable[[Request], Awaitable[Response]]


def _address(call: Call, resource: str) -> str:
    host = call.request.headers["host"]
    return f"https://{ACCOUNT}.blob.x@{host}{CONTAINER}/{resource}?{call.signed(resource)}"


def snapshot_blob_url(call: Call, blob: str) -> str:
    """Return the signed address of a snapshot's blob (an opaque hex id: the client encodes the path twice)."""
    return _address(call, f"snapshots/{blob}")


def artifact_blob_url(call: Call, origin: str, container: str, path: str) -> str:
    """Return the signed address of an artifact as a blob; its name is the hex of what it is."""
    return _address(call, f"artifacts/{f'{origin}/{container}/{path}'.encode().hex()}")


def zip_url(call: Call, snapshot: str) -> str:
    """Return the signed address of a snapshot as a zip file."""
    return f"{call.base}/zips/{snapshot}?{call.signed(f'zips/{snapshot}')}"


def blob_id(address: str) -> str:
    """Return the id at the end of a blob's address; refuse (400) what has none."""
    return checked("blob", address.partition("?")[0].rpartition("/")[2])


def datastore_resource() -> str:
    """Return the name under which the datastore's signature is made."""
    return f"datastore {DATASTORE}"


def _signed(
    handler: Callable[[Request, Site], Awaitable[Response]], name: Callable[[Request], str]
) -> Endpoint:
    """Let a request in whose signature is the one for the resource `name` says; refuse as blob storage does."""

    async def endpoint(request: Request) -> Response:
        site: Site = request.app.state.site
        try:
            run = request.query_params.get("si", "")
            if not site.identity.admits(name(request), request.query_params.get("sig", ""), run):
                raise Fault(403, "The address isn't signed for this.", "AuthenticationFailed")
            if run and not await run_in_threadpool(site.runs.goes, run):
                raise Fault(
                    403,
                    f"The run {run!r} has ended, and what it may read and write with it.",
                    "AuthorizationFailure",
                )
            return await handler(request, site)
        except (Fault, OSError) as error:
            if not isinstance(error, Fault):
                log.exception("a blob's %s failed", request.method)
            return refused(fault_of(error))

    return endpoint


def _blob_name(request: Request) -> str:
    return f"{request.path_params['kind']}/{request.path_params['blob']}"


def _blob_place(request: Request, site: Site) -> tuple[Root, str]:
    """Return the folder and the name in it that a blob's name stands for."""
    kind, blob = request.path_params["kind"], request.path_params["blob"]
    if kind == "snapshots":
        return site.folder.snapshots, one_name(blob)
    try:
        origin, container, path = bytes.fromhex(blob).decode().split("/", 2)
    except ValueError as error:
        raise Fault(404, "The blob doesn't exist.", "BlobNotFound") from error
    return site.folder.artifacts(origin, container), inside(path)


async def _blob(request: Request, site: Site) -> Response:
    root, name = _blob_place(request, site)
    if request.method == "PUT":
        return await put(request, root, name, site.folder.tmp)
    return await send(request, root, name)


async def _file(request: Request, site: Site) -> Response:
    names = request.path_params
    return await send(
        request, site.folder.artifacts(names["origin"], names["container"]), inside(names["path"])
    )


async def _zip(request: Request, site: Site) -> Response:
    target = site.folder.tmp / f"{uuid.uuid4().hex}.zip"
    try:
        await run_in_threadpool(site.snapshots.zip, request.path_params["snapshot"], target)
        return await send(request, Root(site.folder.tmp), target.name, download_as="snapshot.zip")
    finally:
        target.unlink(missing_ok=True)  # what is sent is open by now


async def _data(request: Request, site: Site) -> Response:
    root = site.folder.datastore(DATASTORE)
    may = await run_in_threadpool(rights_on_data, site, request.query_params.get("si", ""))
    if "path" not in request.path_params:
        if request.query_params.get("comp") != "list":
            return Response()
        prefix = request.query_params.get("prefix", "")
        may.check(prefix, write=False)
        return await run_in_threadpool(listing, root, prefix, may.read)
    name = inside(request.path_params["path"])
    may.check(name, write=request.method in ("PUT", "DELETE"))
    if request.method == "PUT":
        return await put(request, root, name, site.folder.tmp)
    if request.method == "DELETE":
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            await run_in_threadpool(root.remove, name)
        return Response(status_code=202)
    return await send(request, root, name)


routes.stream("GET|PUT", CONTAINER + "/{kind}/{blob}", public=True)(_signed(_blob, _blob_name))
routes.stream("GET", "/files/{origin}/{container}/{path:path}", public=True)(
    _signed(
        _file,
        lambda request: (
            f"files {'/'.join(request.path_params[key] for key in ('origin', 'container', 'path'))}"
        ),
    )
)
routes.stream("GET", "/zips/{snapshot}", public=True)(
    _signed(_zip, lambda request: f"zips/{request.path_params['snapshot']}")
)
routes.stream("GET|PUT|DELETE", f"/{DATASTORE}", f"/{DATASTORE}/{{path:path}}", public=True)(
    _signed(_data, lambda request: datastore_resource())
)
