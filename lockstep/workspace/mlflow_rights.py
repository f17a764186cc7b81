"""What the token of a run is good for in MLflow's interface: the run's own records, and registering models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lockstep.workspace.call import Call
from lockstep.workspace.routes.mlflow import method_of

OF_A_RUN = frozenset(
    f"{verb} mlflow/{method}"
    for verb, methods in {
        "GET": ("runs/get", "metrics/get-history"),
        "POST": (
            "runs/update",
            "runs/log-metric",
            "runs/log-batch",
            "runs/log-parameter",
            "runs/set-tag",
            "runs/delete-tag",
            "runs/log-model",
            "runs/log-inputs",
            "runs/outputs",
            "logged-models",
        ),
    }.items()
    for method in methods
)
OF_THE_EXPERIMENT = frozenset({"POST mlflow/runs/create", "GET mlflow/experiments/get"})
OF_A_MODEL = re.compile(
    r"(?:GET|PATCH|POST|DELETE) mlflow/logged-models/([\w-]+)(?:/params|/tags(?:/[^/]+)?)?"
)
REGISTRY = frozenset(
    {
        "POST mlflow/registered-models/create",
        "GET mlflow/registered-models/get",
        "GET mlflow/registered-models/search",
        "GET mlflow/registered-models/alias",
        "GET mlflow/registered-models/get-latest-versions",
        "POST mlflow/registered-models/get-latest-versions",
        "POST mlflow/model-versions/create",
        "GET mlflow/model-versions/get",
        "GET mlflow/model-versions/search",
        "GET mlflow/model-versions/get-download-uri",
    }
)
"""New models and versions, and what there is; nothing that is there is changed."""


def may_call_mlflow(call: Call) -> bool:
    """Tell whether a run may send this request: whatever it names (runs, experiments, models) is its own.

    Its body has to be an object: MLflow decodes a text once more, as JSON. And what has to be named is looked for where
    MLflow reads it: for a GET in the query, else in the body alone.
    """
    if not isinstance(call.body, dict | None):
        return False
    asked = f"{call.request.method} {method_of(call)}"
    if asked == "GET mlflow/experiments/get-by-name":
        return call.request.query_params.getlist("experiment_name") == [_experiment_name(call)]
    named = list(_named(call.body)) + list(_named(dict(call.query)))
    named += [one for pair in call.request.query_params.multi_items() for one in _named(dict([pair]))]
    if not all(_is_own(call, kind, value) for kind, value in named):
        return False
    read = dict(call.query) if call.request.method == "GET" else call.body
    kinds = {kind for kind, _ in _named(read)}
    model = OF_A_MODEL.fullmatch(asked)
    if model:
        return _is_own(call, "modelid", model[1])
    return (
        asked in REGISTRY
        or (asked in OF_A_RUN and bool(kinds & {"runid", "runuuid", "sourcerunid"}))
        or (asked in OF_THE_EXPERIMENT and "experimentid" in kinds)
    )


def _named(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a request names, however deep: MLflow takes `run_id` and `runId` alike, and the last one counts."""
    todo = [value]
    while todo:
        here = todo.pop()
        if isinstance(here, list):
            todo += here
        elif isinstance(here, dict):
            todo += here.values()
            if here.get("key") == "mlflow.parentRunId":
                yield "runid", here.get("value")
            for key, one in here.items():
                kind = str(key).replace("_", "").lower()
                if kind in ("runid", "runuuid", "sourcerunid", "experimentid", "modelid"):
                    yield kind, one


def _is_own(call: Call, kind: str, value: Any) -> bool:
    if not isinstance(value, str):
        return False
    if kind == "experimentid":
        return value == str(call.site.runs.get(call.run)["experiment"])
    if kind == "modelid":
        if not call.site.mlflow.is_ready or not re.fullmatch(r"[\w-]+", value):
            return False
        with call.site.mlflow.client() as client:
            answer = client.get(f"/api/2.0/mlflow/logged-models/{value}")
        value = answer.json()["model"]["info"].get("source_run_id", "") if answer.is_success else ""
    return call.site.runs.descends(value, call.run)


def _experiment_name(call: Call) -> str:
    number = str(call.site.runs.get(call.run)["experiment"])
    return str(call.site.experiments.numbered(number)["name"])
