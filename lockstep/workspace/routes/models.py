"""Model management: assets (files) and models (named, versioned assets)."""

from __future__ import annotations

import json
import sqlite3
import uuid
from typing import Any

from lockstep.workspace.call import Call, Routes
from lockstep.workspace.fault import Fault, missing
from lockstep.workspace.shapes import NewModel
from lockstep.workspace.state import now, text

routes = Routes()
V1 = "/modelmanagement/v1.0{WS}"
ASSET_LIMIT = 1024**2
"""Of an asset's document, in characters: what a job may read is looked up in all of them."""


@routes.on("POST", f"{V1}/assets")
def create_asset(call: Call) -> Any:
    """Keep which files make an asset."""
    asset = {**call.fields(), "id": uuid.uuid4().hex, "createdTime": now()}
    document = text(asset)
    if len(document) > ASSET_LIMIT:
        raise Fault(413, f"An asset's description is more than {ASSET_LIMIT >> 20} MiB.", "RequestTooLarge")
    with call.site.state.change() as change:
        change.execute("INSERT INTO assets VALUES (?, ?)", (asset["id"], document))
    return asset


@routes.on("GET", f"{V1}/assets/{{asset}}")
def get_asset(call: Call) -> Any:
    """Show an asset."""
    row = call.site.state.row("SELECT document FROM assets WHERE id = ?", call.path["asset"])
    if row is None:
        raise missing(f"The asset {call.path['asset']!r}")
    return json.loads(row["document"])


@routes.on("POST", f"{V1}/models")
def create_model(call: Call) -> Any:
    """Register a model: the next version of its name."""
    sent = call.fields(NewModel)
    name = sent["name"]
    with call.site.state.change() as change:
        last = call.site.state.row("SELECT max(version) AS version FROM models WHERE name = ?", name)
        version = (last["version"] if last and last["version"] else 0) + 1
        identity = {"name": name, "version": version, "id": f"{name}:{version}", "createdTime": now()}
        model = {"kvTags": {}, "properties": {}, **sent, **identity, "createdBy": {"userName": "local"}}
        change.execute("INSERT INTO models VALUES (?, ?, ?)", (name, version, text(model)))
    return model


@routes.on("GET", f"{V1}/models")
def query(call: Call) -> Any:
    """List models, the newest first: by name, tag, property or run."""
    models = [json.loads(row["document"]) for row in _newest_first(call)]
    name, run = call.query.get("name"), call.query.get("runId")
    wanted = [
        model
        for model in models
        if name in (None, model["name"])
        and run in (None, model.get("runId"))
        and _has_all(model.get("kvTags") or {}, call.query.get("tags"))
        and _has_all(model.get("properties") or {}, call.query.get("properties"))
    ]
    if call.query.get("latest", "").lower() == "true":
        wanted = list({model["name"]: model for model in reversed(wanted)}.values())[::-1]
    return {"value": wanted[: call.number("count") or None], "nextLink": None}


def _newest_first(call: Call) -> list[sqlite3.Row]:
    return call.site.state.rows("SELECT document FROM models ORDER BY version DESC, rowid DESC")


def _has_all(have: dict[str, Any], wanted: str | None) -> bool:
    """Tell whether `name` and `name=value` pairs, separated by commas, are all there."""
    for pair in filter(None, (wanted or "").split(",")):
        name, equals, value = pair.partition("=")
        if name not in have or (equals and str(have[name]) != value):
            return False
    return True


def _model(call: Call) -> dict[str, Any]:
    name, _, version = call.path["model"].rpartition(":")
    row = call.site.state.row("SELECT document FROM models WHERE name = ? AND version = ?", name, version)
    if row is None:
        raise missing(f"The model {call.path['model']!r}")
    model: dict[str, Any] = json.loads(row["document"])
    return model


@routes.on("GET", f"{V1}/models/{{model}}")
def get_model(call: Call) -> Any:
    """Show a model by its `name:version`."""
    return _model(call)


@routes.on("DELETE", f"{V1}/models/{{model}}")
def delete_model(call: Call) -> Any:
    """Remove a model; its files stay with the run that made them."""
    model = _model(call)
    with call.site.state.change() as change:
        change.execute("DELETE FROM models WHERE name = ? AND version = ?", (model["name"], model["version"]))
