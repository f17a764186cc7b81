"""The artifact service, and the same under run history, where azureml-mlflow looks for it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from lockstep.workspace.artifacts import RUN_ORIGIN, artifact_document, listed, stored
from lockstep.workspace.call import Call, Routes
from lockstep.workspace.fault import Fault, error_body, missing
from lockstep.workspace.folder import inside
from lockstep.workspace.names import checked
from lockstep.workspace.routes.blobs import artifact_blob_url
from lockstep.workspace.routes.experiments import BY_ID, BY_NAME
from lockstep.workspace.runs import container_of
from lockstep.workspace.shapes import ArtifactPaths

routes = Routes()
ROOT = "/artifact/v2.0{WS}/artifacts"
PREFIX = f"{ROOT}/prefix/contentinfo/{{origin}}/{{container}}"
OF_RUN = (f"{BY_NAME}/runs/{{run}}/artifacts", f"{BY_ID}/runs/{{run}}/artifacts")


def of_run(suffix: str) -> tuple[str, ...]:
    """Return both spellings of a run's artifact path, with more behind it."""
    return tuple(f"{path}/{suffix}" for path in OF_RUN)


def place(call: Call) -> tuple[str, str]:
    """Return origin and container that a path names, directly or through a run."""
    if "run" in call.path:
        call.site.runs.get(call.path["run"])
        return RUN_ORIGIN, container_of(call.path["run"])
    return call.path["origin"], call.path["container"]


def content_url(call: Call, origin: str, container: str, path: str) -> str:
    """Return the signed address at which the SDK reads an artifact with a plain GET."""
    resource = f"/files/{quote(origin)}/{quote(container)}/{quote(path)}"
    return f"{call.base}{resource}?{call.signed(f'files {origin}/{container}/{path}')}"


def _url(call: Call, origin: str, container: str, path: str) -> str:
    """Return where to read it: azureml-mlflow silently reads nothing unless the address looks like Azure's storage."""
    return (artifact_blob_url if "run" in call.path else content_url)(call, origin, container, path)


def _information(call: Call, path: str) -> dict[str, Any]:
    origin, container = place(call)
    stored(call.site.folder.artifacts(origin, container), path)
    return {
        "contentUri": _url(call, origin, container, path),
        "origin": origin,
        "container": container,
        "path": path,
    }


@routes.on("GET", f"{ROOT}/contentinfo/{{origin}}/{{container}}/{{path:path}}")
def content_information(call: Call) -> Any:
    """Tell where one artifact can be read."""
    return _information(call, call.path["path"])


@routes.on("GET", *of_run("contentinfo"), *of_run("contentinfo/{path:path}"))
def content_information_of_run(call: Call) -> Any:
    """Tell where one artifact of a run can be read."""
    return _information(call, call.path.get("path") or call.query.get("path", ""))


@routes.on(
    "GET",
    PREFIX,
    f"{PREFIX}/{{path:path}}",
    *of_run("prefix/contentinfo"),
    *of_run("prefix/contentinfo/{path:path}"),
)
def prefix_information(call: Call) -> Any:
    """Tell where the artifacts below a folder can be read."""
    origin, container = place(call)
    prefix = call.path.get("path") or call.query.get("path", "")
    found = [
        {
            "contentUri": _url(call, origin, container, path),
            "origin": origin,
            "container": container,
            "path": path,
        }
        for path, _ in listed(call.site.folder.artifacts(origin, container), prefix)
    ]
    return {"value": found, "continuationToken": None}


@routes.on("POST", f"{ROOT}/batch/metadata/{{origin}}/{{container}}", *of_run("batch/metadata"))
def create_empty(call: Call) -> Any:
    """Give each path an address to upload to. What is never uploaded never appears."""
    origin, container = place(call)
    made: dict[str, Any] = {"artifacts": {}, "artifactContentInformation": {}, "errors": {}}
    for one in call.fields(ArtifactPaths).get("paths") or []:
        path = str(one.get("path") if isinstance(one, dict) else one)
        try:
            call.site.folder.artifacts(origin, container)
            inside(checked("new_path", path))
        except Fault as fault:
            made["errors"][path] = error_body(fault.message, fault.code)
            continue
        made["artifacts"][path] = artifact_document(origin, container, path)
        information = {"origin": origin, "container": container, "path": path}
        made["artifactContentInformation"][path] = {
            **information,
            "contentUri": artifact_blob_url(call, origin, container, path),
        }
    return made


@routes.on("GET", f"{ROOT}/metadata/{{origin}}/{{container}}/{{path:path}}")
def metadata(call: Call) -> Any:
    """Show one artifact."""
    origin, container, path = call.path["origin"], call.path["container"], call.path["path"]
    facts = stored(call.site.folder.artifacts(origin, container), path)
    return artifact_document(origin, container, path, facts.st_mtime)


@routes.on("GET", f"{ROOT}/{{origin}}/{{container}}", *OF_RUN)
def listing(call: Call) -> Any:
    """List a container's artifacts."""
    origin, container = place(call)
    files = listed(call.site.folder.artifacts(origin, container), call.query.get("path", ""))
    return {
        "value": [artifact_document(origin, container, path, facts.st_mtime) for path, facts in files],
        "continuationToken": None,
    }


@routes.on("DELETE", f"{ROOT}/{{origin}}/{{container}}/{{path:path}}")
def delete(call: Call) -> Any:
    """Remove one artifact."""
    root = call.site.folder.artifacts(call.path["origin"], call.path["container"])
    try:
        root.remove(inside(call.path["path"]))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise missing(f"The artifact {call.path['path']!r}") from error
