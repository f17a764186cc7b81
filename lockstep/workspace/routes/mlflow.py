"""MLflow's REST interface as azureml-mlflow speaks it: passed on to the real MLflow server."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from starlette.responses import Response

from lockstep.workspace.call import Call, Routes
from lockstep.workspace.fault import Fault
from lockstep.workspace.mlflow_artifacts import list_artifacts
from lockstep.workspace.shapes import MlflowBatch, MlflowExperiment, MlflowMetric

if TYPE_CHECKING:
    import httpx

routes = Routes()
STATES = {"FINISHED": "Completed", "FAILED": "Failed", "KILLED": "Canceled", "RUNNING": "Running"}
VERSIONS = ("v1.0", "v2.0")
WAIT_SECONDS = 60


@routes.on(
    "GET|POST|PUT|PATCH|DELETE", *(f"/mlflow/{version}{{WS}}/api/2.0/{{method:path}}" for version in VERSIONS)
)
def mlflow(call: Call) -> Any:
    """Pass a request on, and keep what it says about runs, so that the SDK's own routes know it too.

    Metrics are kept here first and brought to MLflow in a moment: a training doesn't wait for MLflow, and works where
    MLflow isn't installed.
    """
    method = method_of(call)
    if method in ("mlflow/runs/log-metric", "mlflow/runs/log-batch") and not _keep_metrics(call, method):
        return {}
    if method == "mlflow/artifacts/list":
        return list_artifacts(call.site, call.query)
    _ready(call)
    if method == "mlflow/experiments/create":
        return _create_experiment(call)
    with _answers():
        call.site.bridge.bring_all()
    answer = _passed_on(call, method)
    if answer.status_code >= 400 or "json" not in answer.headers.get("content-type", "json"):
        return _as_it_is(answer)
    said = answer.json() if answer.content else {}
    _kept(call, method, said)
    return _placed(said)


def method_of(call: Call) -> str:
    """Return the method of MLflow's interface that a request calls, as MLflow's server knows it."""
    return call.path["method"].replace("preview/mlflow/", "mlflow/").removesuffix("-async")


def _keep_metrics(call: Call, method: str) -> bool:
    """Keep the metrics of a request; return whether there is more in it, which only MLflow can take."""
    body = call.fields(MlflowMetric if method.endswith("log-metric") else MlflowBatch)
    run_id = str(body.get("run_id") or body.get("run_uuid") or "")
    if not call.site.runs.exists(run_id):
        return True
    metrics = [body] if method.endswith("log-metric") else body.get("metrics") or []
    call.site.metrics.add_numbers(run_id, [_metric(one) for one in metrics])
    tags = {tag["key"]: tag["value"] for tag in body.get("tags") or []}
    _tag(call, run_id, tags)
    only_ours = len(_own(tags)) == len(tags) and not any(one.get("model_id") for one in metrics)
    return bool(body.get("params")) or not only_ours


@routes.on(
    "GET|POST|PUT|PATCH|DELETE", *(f"/mlflow/{version}{{WS}}/api/3.0/{{method:path}}" for version in VERSIONS)
)
def mlflow_3(call: Call) -> Any:
    """Pass a request of MLflow 3's newer interface on."""
    _ready(call)
    answer = _passed_on(call, call.path["method"], version="3.0")
    return _as_it_is(answer)


def _ready(call: Call) -> None:
    if not call.site.mlflow.is_installed:
        raise Fault(
            404,
            "MLflow isn't installed for this workspace: `./invoke workspace` installs it.",
            "MLflowMissing",
        )
    if not call.site.mlflow.wait(WAIT_SECONDS):
        raise Fault(400, "MLflow doesn't answer; its log is in the workspace's folder.", "MLflowUnavailable")


def _passed_on(call: Call, method: str, version: str = "2.0") -> httpx.Response:
    query = urlencode(list(call.request.query_params.multi_items()))
    path = f"/api/{version}/{quote(method)}" + (f"?{query}" if query else "")
    content = (
        None if call.body is None else json.dumps(call.body).encode()
    )  # NaN too, which httpx wouldn't write
    headers = {"Content-Type": "application/json"} if content else {}
    with _answers(), call.site.mlflow.client() as client:
        return client.request(call.request.method, path, content=content, headers=headers)


@contextlib.contextmanager
def _answers() -> Iterator[None]:
    """Say in words that MLflow doesn't answer."""
    import httpx  # takes a third of a second: not before the first answer

    try:
        yield
    except httpx.HTTPError as error:
        message = f"MLflow didn't answer ({type(error).__name__}); its log is in the workspace's folder."
        raise Fault(400, message, "MLflowUnavailable") from error


def _as_it_is(answer: httpx.Response) -> Response:
    """Return MLflow's answer, but never a status that the SDK would ask again for."""
    return Response(answer.content, min(answer.status_code, 499), media_type="application/json")


def _create_experiment(call: Call) -> Any:
    """Make an experiment here: its id is the one that MLflow gets."""
    row = call.site.experiments.create(call.fields(MlflowExperiment)["name"])
    call.site.bridge.bring_names()
    return {"experiment_id": str(row["id"])}


def _kept(call: Call, method: str, said: dict[str, Any]) -> None:
    """Keep what a request that MLflow accepted says about a run."""
    body = call.body if isinstance(call.body, dict) else {}
    run_id = str(body.get("run_id") or body.get("run_uuid") or "")
    site = call.site
    if method == "mlflow/runs/create":
        info = said["run"]["info"]
        tags = {tag["key"]: tag["value"] for tag in body.get("tags") or []}
        parent = tags.get("mlflow.parentRunId")
        fields = {
            "displayName": info.get("run_name"),
            "tags": _own(tags),
            # what a job makes is its child: its token has no rights on any other run
            "parentRunId": parent if parent and site.runs.exists(parent) else call.run or None,
        }
        site.runs.create(info["run_id"], int(info["experiment_id"]), fields, status="Running")
        site.bridge.adopt_run(info["run_id"])
    elif method == "mlflow/logged-models":
        model = said.get("model", {}).get("info", {})
        if model.get("source_run_id"):
            site.bridge.adopt_model(model["model_id"], model["source_run_id"])
    elif not run_id or not site.runs.exists(run_id):
        return
    elif method == "mlflow/runs/update":
        status = STATES.get(str(body.get("status")))
        if status and site.runs.get(run_id)["submitted"] is None:
            site.runs.enter(run_id, status)
        if body.get("run_name"):
            site.runs.modify(run_id, {"displayName": body["run_name"]})
    elif method == "mlflow/runs/set-tag":
        _tag(call, run_id, {str(body.get("key")): body.get("value")})


def _tag(call: Call, run_id: str, tags: dict[str, Any]) -> None:
    if _own(tags):
        call.site.runs.modify(run_id, {"tags": _own(tags)})


def _own(tags: dict[str, Any]) -> dict[str, Any]:
    """Return the tags that people set; MLflow's own stay in MLflow."""
    return {key: value for key, value in tags.items() if not key.startswith("mlflow.")}


def _metric(one: dict[str, Any]) -> tuple[str, float, int, int]:
    return (
        str(one.get("key")),
        float(one.get("value", "nan")),
        int(one.get("timestamp") or 0),
        int(one.get("step") or 0),
    )


def _placed(said: Any) -> Any:
    """Return an answer in which artifacts are where azureml-mlflow fetches them, and no path of this machine is."""
    if isinstance(said, list):
        return [_placed(one) for one in said]
    if not isinstance(said, dict):
        return said
    kept = {key: _placed(value) for key, value in said.items()}
    root = f"azureml://experiments/{kept.get('experiment_id')}"
    if "artifact_uri" in kept and "model_id" in kept and "experiment_id" in kept:
        run = kept.get("source_run_id")
        kept["artifact_uri"] = f"{root}/runs/{run}/artifacts/models/{kept['model_id']}"
    elif "artifact_uri" in kept and "run_id" in kept:
        kept["artifact_uri"] = f"{root}/runs/{kept['run_id']}/artifacts"
    elif "artifact_location" in kept and "experiment_id" in kept:
        kept["artifact_location"] = root
    return kept
