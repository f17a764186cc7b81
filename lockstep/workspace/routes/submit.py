"""The execution service: submitting a run and cancelling it."""

from __future__ import annotations

import json
import uuid
from typing import Any

from lockstep.workspace.call import Call, Routes
from lockstep.workspace.fault import Fault
from lockstep.workspace.inputs import check_references
from lockstep.workspace.launch import check_definition, nodes_of
from lockstep.workspace.nodes import check_nodes
from lockstep.workspace.routes.blobs import DATASTORE
from lockstep.workspace.routes.experiments import BY_ID, BY_NAME, experiment_id_of
from lockstep.workspace.run_shapes import Submission

routes = Routes()
EXECUTION = tuple(path.replace("/history/", "/execution/") for path in (BY_NAME, BY_ID))


@routes.on("POST", *(f"{path}/snapshotrun" for path in EXECUTION))
def submit(call: Call) -> Any:
    """Take a run: its snapshot, its definition, its environment (registered, if it isn't). It waits in its queue."""
    sent = call.fields(Submission)
    definition = sent.get("Configuration") or sent.get("configuration")
    if definition is None:
        raise Fault(400, "A run needs its Configuration.", "BadArgument")
    snapshot = str(sent.get("SnapshotId") or sent.get("snapshotId") or "")
    call.site.snapshots.get(snapshot)
    check_definition(definition)
    check_references(definition, DATASTORE)
    target = str(definition.get("target") or "")
    check_nodes(target, nodes_of(definition), call.site.computes.nodes(target))
    definition["environment"] = _registered(call, definition.get("environment") or {})
    experiment = experiment_id_of(call)
    run_id = call.named("run", "runId") or f"run_{uuid.uuid4().hex[:12]}"
    properties = {
        "ContentSnapshotId": snapshot,
        "azureml.runsource": "experiment",
        "AzureML.DerivedImageName": (definition["environment"].get("docker") or {}).get("baseImage"),
    }
    fields = {
        "target": target,
        "scriptName": definition.get("script"),
        "properties": {name: value for name, value in properties.items() if value},
        "tags": definition.get("tags"),
        "parentRunId": sent.get("ParentRunId"),
    }
    call.site.runs.create(run_id, experiment, fields, status="Starting", definition=definition)
    call.site.runner.enqueue(run_id)
    return {"runId": run_id}


def _registered(call: Call, environment: dict[str, Any]) -> dict[str, Any]:
    """Return the run's environment as this workspace has it; `run.get_environment()` asks for it by name."""
    name = str(environment.get("name") or f"Experiment {call.path.get('experiment', '')} Environment")
    version = environment.get("version")
    if name.lower().startswith("azureml-"):
        return call.site.environments.get(name, version)
    try:
        kept = call.site.environments.register(name, environment, version)
    except Fault as fault:
        if (
            fault.code != "Conflict"
        ):  # the client changed a definition that it had fetched: that's a new version
            raise
        kept = call.site.environments.register(name, environment)
    return {**json.loads(json.dumps(environment)), "name": kept["name"], "version": kept["version"]}


@routes.on(
    "POST", "/execution/v1.0{WS}/runs/{run}/cancel", *(f"{path}/runs/{{run}}/cancel" for path in EXECUTION)
)
def cancel(call: Call) -> Any:
    """Stop a run."""
    call.site.runs.get(call.path["run"])
    call.site.runner.cancel(call.path["run"])
