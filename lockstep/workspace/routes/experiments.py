"""Run history, the experiments' half."""

from __future__ import annotations

from typing import Any

from lockstep.workspace.call import Call, Routes
from lockstep.workspace.experiments import experiment_document
from lockstep.workspace.query import ordered, parse_filter
from lockstep.workspace.shapes import ExperimentPatch, Query, TagNames

routes = Routes()
BY_NAME = "/history/v1.0{WS}/experiments/{experiment}"
BY_ID = "/history/v1.0{WS}/experimentids/{experiment_id}"


def experiment_id_of(call: Call) -> int:
    """Return the id of the experiment that a path names, by name or by id; refuse with 404."""
    if "experiment_id" in call.path:
        return int(call.site.experiments.numbered(call.path["experiment_id"])["id"])
    return int(call.site.experiments.named(call.path["experiment"])["id"])


@routes.on("GET", BY_NAME, BY_ID)
def get(call: Call) -> Any:
    """Show an experiment."""
    return experiment_document(call.site.experiments.numbered(str(experiment_id_of(call))))


@routes.on("POST", BY_NAME)
def create(call: Call) -> Any:
    """Make an experiment, or return the one of that name."""
    row = call.site.experiments.create(call.path["experiment"])
    call.site.bridge.wake()
    return experiment_document(row)


@routes.on("PATCH", BY_NAME, BY_ID)
def modify(call: Call) -> Any:
    """Change tags, description or archive state."""
    return experiment_document(
        call.site.experiments.modify(experiment_id_of(call), call.fields(ExperimentPatch))
    )


@routes.on("DELETE", f"{BY_NAME}/tags", f"{BY_ID}/tags")
@routes.on("POST", f"{BY_ID}/tags:delete")
def untag(call: Call) -> Any:
    """Remove tags."""
    call.site.experiments.untag(experiment_id_of(call), tag_names(call))


def tag_names(call: Call) -> list[str]:
    """Return the names of the tags to be removed: a list, or a list in an object."""
    sent = call.fields(list[str] | TagNames | None) or []
    return sent if isinstance(sent, list) else sent.get("tags") or sent.get("values") or []


@routes.on("POST", "/history/v1.0{WS}/experiments:query")
def query(call: Call) -> Any:
    """List experiments: those that pass the filter, archived ones only where they are asked for."""
    asked = call.fields(Query | None) or {}
    documents = [experiment_document(row) for row in call.site.experiments.all()]
    view = asked.get("viewType") or "ActiveOnly"
    if view != "All":
        documents = [one for one in documents if bool(one["archivedTime"]) == (view == "ArchivedOnly")]
    passes = parse_filter(asked.get("filter"))
    return {
        "value": ordered([one for one in documents if passes(one)], asked.get("orderby")),
        "continuationToken": None,
    }
