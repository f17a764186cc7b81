"""Run history, the runs' half: runs, their details, events, children, tags and tokens."""

from __future__ import annotations

import json
import sqlite3
import time
from typing import Any

from lockstep.workspace.artifacts import RUN_ORIGIN, listed
from lockstep.workspace.call import Call, Routes, whole
from lockstep.workspace.fault import Fault, error_body
from lockstep.workspace.identity import ARM_PATH, DAY
from lockstep.workspace.names import checked
from lockstep.workspace.query import ordered, parse_filter
from lockstep.workspace.routes.artifacts import content_url
from lockstep.workspace.routes.experiments import BY_ID, BY_NAME, experiment_id_of, tag_names
from lockstep.workspace.runs import container_of, run_document
from lockstep.workspace.shapes import Event, EventBatch, Query, RunBatch, RunPatch, fitting
from lockstep.workspace.state import iso

routes = Routes()
RUN = (f"{BY_NAME}/runs/{{run}}", f"{BY_ID}/runs/{{run}}")
PAGE = 500


def document(call: Call, row: sqlite3.Row) -> dict[str, Any]:
    """Return a run as this client is to see it."""
    return run_document(row, call.base, ARM_PATH)


def below(suffix: str) -> tuple[str, ...]:
    """Return both spellings of a run's path, with more behind it."""
    return tuple(f"{path}/{suffix}" for path in RUN)


@routes.on("GET", *RUN, "/history/v1.0{WS}/runs/{run}")
def get(call: Call) -> Any:
    """Show a run."""
    return document(call, call.site.runs.get(call.path["run"]))


@routes.on("PATCH", *RUN)
def patch(call: Call) -> Any:
    """Change a run, or create it: that is how interactive and child runs begin."""
    return _patched(call, call.path["run"], call.fields())


def _patched(call: Call, run_id: str, fields: dict[str, Any]) -> dict[str, Any]:
    checked("run", run_id)
    fitting(RunPatch, fields)
    with call.site.state.change():
        if not call.site.runs.exists(run_id):
            status = fields.get("status") or "NotStarted"
            row = call.site.runs.create(run_id, experiment_id_of(call), fields, status=status)
        elif call.run and not call.site.runs.descends(run_id, call.run):
            # it wasn't there when the job's rights were looked at: somebody else has made it since
            raise Fault(403, f"The run {run_id!r} isn't one of {call.run!r}.", "AuthorizationFailed")
        else:
            row = call.site.runs.modify(run_id, fields)
    return document(call, row)


@routes.on("PATCH|POST", f"{BY_NAME}/batch/runs", f"{BY_ID}/batch/runs")
def patch_many(call: Call) -> Any:
    """Change or create several runs."""
    done, errors = {}, {}
    for fields in call.fields(RunBatch).get("runs") or []:
        run_id = str(fields.get("runId"))
        try:
            done[run_id] = _patched(call, run_id, fields)
        except Fault as fault:
            errors[run_id] = error_body(fault.message, fault.code)
    return {"runs": done, "errors": errors}


@routes.on("GET", *below("details"))
def details(call: Call) -> Any:
    """Show a run with its definition and where its logs are."""
    row = call.site.runs.get(call.path["run"])
    call.site.runner.seen(row["id"])
    shown = document(call, row)
    container = container_of(row["id"])
    logs = listed(call.site.folder.artifacts(RUN_ORIGIN, container), "azureml-logs")
    return {
        **{key: shown[key] for key in ("runId", "status", "target", "startTimeUtc", "endTimeUtc", "error", "warnings",
                                       "properties", "parentRunId", "inputs", "outputs")},
        "runDefinition": json.loads(row["details"]).get("definition"),
        "inputDatasets": [],
        "outputDatasets": [],
        "logFiles": {path: content_url(call, RUN_ORIGIN, container, path) for path, _ in logs},
    }  # fmt: skip


@routes.on("GET", *below("children"))
def children(call: Call) -> Any:
    """List a run's direct children."""
    documents = [document(call, row) for row in call.site.runs.children(call.path["run"])]
    return _page(documents, call.query.get("$top"), call.query.get("$continuationToken"))


@routes.on("POST", f"{BY_NAME}/runs:query", f"{BY_ID}/runs:query")
def query(call: Call) -> Any:
    """List an experiment's runs: those that pass the filter, in the order asked for."""
    asked = call.fields(Query | None) or {}
    passes = parse_filter(asked.get("filter"))
    rows = call.site.runs.of_experiment(experiment_id_of(call))
    documents = [one for one in (document(call, row) for row in rows) if passes(one)]
    orders = asked.get("orderby") or ""
    orders = (orders if isinstance(orders, str) else ",".join(orders)).strip("[]'\"")
    if orders and not orders.startswith("StartTimeUtc desc"):  # the newest first is how they come
        documents = ordered(documents, orders)
    return _page(documents, asked.get("top"), asked.get("continuationToken"))


def _page(documents: list[dict[str, Any]], top: Any, token: Any) -> dict[str, Any]:
    """Return one page; the continuation token is where the next begins."""
    start = whole(token)
    end = start + (whole(top) or PAGE)
    return {"value": documents[start:end], "continuationToken": str(end) if end < len(documents) else None}


@routes.on("POST", *below("events"))
def event(call: Call) -> Any:
    """Take an event of one run."""
    _happened(call, call.path["run"], call.fields())


@routes.on("POST", f"{BY_NAME}/batch/events", f"{BY_ID}/batch/events")
def events(call: Call) -> Any:
    """Take events of several runs."""
    errors = []
    for one in call.fields(EventBatch).get("events") or []:
        data = one.get("data")
        run_id = str(data.get("RunId") if isinstance(data, dict) else None)
        try:
            _happened(call, run_id, one)
        except Fault as fault:
            errors.append({"key": one, "value": error_body(fault.message, fault.code)})
    return {"errors": errors}


def _happened(call: Call, run_id: str, sent: dict[str, Any]) -> None:
    """Move a run as an event says. A submitted run's start and end are the runner's to decide, not its script's."""
    fitting(Event, sent)
    row = call.site.runs.get(run_id)
    name = str(sent.get("name", "")).rpartition(".")[2]
    data = sent.get("data") or {}
    if name in ("Canceled", "CancelRequested"):
        call.site.runner.cancel(run_id)
    elif name == "Error":
        call.site.runs.blame(run_id, data.get("ErrorResponse") or data.get("errorResponse"))
    elif name == "Warning":
        warning = {"source": data.get("Source"), "message": data.get("Message")}
        call.site.runs.warn(run_id, warning)
    elif row["submitted"] is None:
        status = {"Start": "Running", "Completed": "Completed", "Failed": "Failed", "Queued": "Queued"}.get(
            name
        )
        if status:
            call.site.runs.enter(run_id, status)


@routes.on("DELETE", *below("tags"))
def untag(call: Call) -> Any:
    """Remove tags."""
    call.site.runs.untag(call.path["run"], tag_names(call))


@routes.on("GET", *below("metricsingest/wait"))
def metrics_are_in(call: Call) -> Any:
    """Answer at once: a metric is stored before its POST is answered."""


@routes.on("GET", *below("token"))
def token(call: Call) -> Any:
    """Give a job a fresh token of its own run before its token runs out."""
    run = call.run or call.site.runs.get(call.path["run"])["id"]
    return {"token": call.site.identity.token(DAY, run), "expiryTimeUtc": iso(time.time() + DAY)}
