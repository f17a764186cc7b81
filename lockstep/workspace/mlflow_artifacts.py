"""Artifacts as MLflow's pages ask for them: answered here, because MLflow itself is given no folder.

Its own file store follows links, which a job can make in its outputs. So it knows artifacts by `azureml://` addresses,
for which it has no reader, and these requests don't reach it.
"""

from __future__ import annotations

import re
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lockstep.root import Root
from lockstep.workspace.artifacts import RUN_ORIGIN, entries
from lockstep.workspace.blobs import send
from lockstep.workspace.fault import missing
from lockstep.workspace.folder import inside
from lockstep.workspace.runs import container_of
from lockstep.workspace.site import Site

API = r"(?:/(?:ajax-)?api/2\.0/mlflow)"
OF_RUN = re.compile(rf"{API}?/get-artifact|{API}/artifacts/(list)")
OF_MODEL = re.compile(rf"{API}/logged-models/([^/]+)/artifacts/(?:files|(directories))")
PLACE = re.compile(r"azureml://experiments/[^/]+/runs/([^/]+)/artifacts/(.+)")


async def answer(request: Request, site: Site) -> Response | None:
    """Answer a request for a list of artifacts or for one artifact's bytes; None for all else."""
    path, query = request.url.path, request.query_params
    if found := OF_RUN.fullmatch(path):
        root, top, wanted = await run_in_threadpool(_of_run, site, query), "", query.get("path", "")
        is_list = bool(found[1])
    elif found := OF_MODEL.fullmatch(path):
        is_list = bool(found[2])
        root, top = await run_in_threadpool(_of_model, site, found[1])
        wanted = query.get("artifact_directory_path" if is_list else "artifact_file_path", "")
    else:
        return None
    if is_list:
        return JSONResponse(await run_in_threadpool(_listing, root, top, wanted))
    name = inside(f"{top}/{wanted}" if top else wanted)
    return await send(request, root, name, download_as=name.rpartition("/")[2])


def list_artifacts(site: Site, query: Any) -> dict[str, Any]:
    """Return what MLflow's `artifacts/list` returns for a run."""
    return _listing(_of_run(site, query), "", query.get("path", ""))


def _of_run(site: Site, query: Any) -> Root:
    run = site.runs.get(query.get("run_id") or query.get("run_uuid") or "")
    return site.folder.artifacts(RUN_ORIGIN, container_of(run["id"]))


def _of_model(site: Site, model: str) -> tuple[Root, str]:
    """Return the artifacts of the run that logged a model, and where in them the model lies."""
    with site.mlflow.client() as client:
        found = client.get(f"/api/2.0/mlflow/logged-models/{inside(model)}")
    address = found.json()["model"]["info"]["artifact_uri"] if found.is_success else ""
    place = PLACE.fullmatch(address)
    if not place:
        raise missing(f"The logged model {model!r}")
    return site.folder.artifacts(RUN_ORIGIN, container_of(place[1])), inside(place[2])


def _listing(root: Root, top: str, path: str) -> dict[str, Any]:
    """Return the files and folders directly in a folder, with their paths below `top`."""
    folder = "/".join(part for part in (top, path.strip("/")) if part)
    files = [
        {"path": name.removeprefix(f"{top}/"), "is_dir": size is None, "file_size": size or 0}
        for name, size in entries(root, folder)
    ]
    return {"root_uri": "", "files": files}
