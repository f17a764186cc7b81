"""Rights: what the token of a run is good for. What isn't listed here, a job may not do.

A job may write to its own run and to the runs that it makes (its children), and read what it was started with: its
source, its environment, its data (data_rights.py), the files of registered models. Of the rest of the workspace it
sees names only. The owner's token is good for everything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from lockstep.workspace.artifacts import RUN_ORIGIN
from lockstep.workspace.call import Call, Handler
from lockstep.workspace.fault import Fault
from lockstep.workspace.mlflow_rights import may_call_mlflow
from lockstep.workspace.routes import (
    arm,
    artifacts,
    compute,
    datastores,
    environments,
    experiments,
    metrics,
    mlflow,
    models,
    runs,
    snapshots,
    submit,
)
from lockstep.workspace.runs import container_of

SNAPSHOT = "ContentSnapshotId"
UPLOADS = "LocalUpload"
"""The origin under which the SDK uploads a model's files that are no run's."""


def check(handler: Handler, call: Call) -> None:
    """Refuse (403) a request that shows a run's token and asks for more than that run may do."""
    if call.run and not RIGHTS.get(handler, _nothing)(call):
        what = (handler.__doc__ or handler.__name__).partition("\n")[0].rstrip(".")
        raise Fault(
            403,
            f"The token of the run {call.run!r} isn't good for this request ({what}). A job may write to its own run "
            "and its children, and read its inputs: docs/workspace.md, 'What a job can do'.",
            "AuthorizationFailed",
        )


def _nothing(_: Call) -> bool:
    return False


def _always(_: Call) -> bool:
    return True


def _is_own(call: Call, run_id: Any) -> bool:
    """Tell whether a run is the token's own, or one that it made."""
    return isinstance(run_id, str) and call.site.runs.descends(run_id, call.run)


def _own_run(call: Call) -> bool:
    return _is_own(call, call.path["run"])


def _own_experiment(call: Call) -> bool:
    return bool(experiments.experiment_id_of(call) == call.site.runs.get(call.run)["experiment"])


def _details(call: Call) -> dict[str, Any]:
    details: dict[str, Any] = json.loads(call.site.runs.get(call.run)["details"])
    return details


def _fields(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _items(call: Call, name: str) -> list[dict[str, Any]]:
    """Return the objects in a list of the body; what isn't one counts as an empty one."""
    found = _fields(call.body).get(name)
    return [_fields(one) for one in found] if isinstance(found, list) else []


def _may_patch(call: Call, run_id: Any, fields: dict[str, Any]) -> bool:
    """Tell whether a run may be changed so, or made: one that a job makes is a child in its own experiment."""
    if not isinstance(run_id, str):
        return False
    if not call.site.runs.exists(run_id):
        return _is_own(call, fields.get("parentRunId")) and _own_experiment(call)
    snapshot = _details(call)["properties"].get(SNAPSHOT)  # decides which source the job may read
    return _is_own(call, run_id) and _fields(fields.get("properties")).get(SNAPSHOT, snapshot) == snapshot


def _patches_own(call: Call) -> bool:
    return _may_patch(call, call.path["run"], _fields(call.body))


def _patches_own_runs(call: Call) -> bool:
    return all(_may_patch(call, one.get("runId"), one) for one in _items(call, "runs"))


def _own_events(call: Call) -> bool:
    return all(_is_own(call, _fields(one.get("data")).get("RunId")) for one in _items(call, "events"))


def _own_snapshot(call: Call) -> bool:
    return bool(call.path["snapshot"] == _details(call)["properties"].get(SNAPSHOT))


def _own_environment(call: Call) -> bool:
    environment = _fields(_details(call).get("definition")).get("environment") or {}
    return bool(call.path["environment"] == environment.get("name"))


def _own_container(call: Call, origin: str, container: str) -> bool:
    """Tell whether a container of artifacts is that of an own run, or one of own uploads."""
    if origin == RUN_ORIGIN:
        return container.startswith(container_of("")) and _is_own(call, container[len(container_of("")) :])
    return origin == UPLOADS and call.site.state.note(f"upload {container}") == call.run


def _is_readable(call: Call, origin: str, container: str, path: str) -> bool:
    """Tell whether artifacts are own ones or those of an asset, which is what a registered model names."""
    if _own_container(call, origin, container):
        return True
    wanted = f"{origin}/{container}/{path.strip('/')}"
    return any(wanted == prefix or wanted.startswith(f"{prefix}/") for prefix in _of_assets(call))


def _of_assets(call: Call) -> Iterator[str]:
    """Yield what all assets name; one of them at a time is in memory."""
    for asset in call.site.state.rows("SELECT id FROM assets"):
        row = call.site.state.row("SELECT document FROM assets WHERE id = ?", asset["id"])
        yield from _prefixes(json.loads(row["document"])) if row else ()


def _prefixes(asset: dict[str, Any]) -> list[str]:
    """Return what an asset names, as `origin/container/path` each."""
    named = [_fields(one) for one in asset.get("artifacts") or []]
    return [str(one.get("prefix") or one.get("id") or "").strip("/") for one in named]


def _reads_artifacts(call: Call) -> bool:
    if "run" in call.path:  # the answer holds addresses that can be written to
        return _own_run(call)
    origin, container = artifacts.place(call)
    return _is_readable(call, origin, container, call.path.get("path") or call.query.get("path", ""))


def _uploads_artifacts(call: Call) -> bool:
    """Own runs' artifacts, and a new container for the files of a model; it is this run's from then on."""
    origin, container = artifacts.place(call)
    if origin == UPLOADS and not call.site.folder.artifacts(origin, container).path.exists():
        call.site.state.claim(f"upload {container}", call.run)
    return _own_container(call, origin, container)


def _removes_artifact(call: Call) -> bool:
    return _own_container(call, call.path["origin"], call.path["container"])


def _makes_asset(call: Call) -> bool:
    """An asset makes its files readable for every job: they have to be the run's own."""
    named = [prefix.split("/", 2) for prefix in _prefixes(_fields(call.body))]
    return all(len(one) == 3 and _own_container(call, one[0], one[1]) for one in named)


def _registers_model(call: Call) -> bool:
    run_id = _fields(call.body).get("runId")
    return run_id is None or _is_own(call, run_id)


RIGHTS: dict[Handler, Callable[[Call], bool]] = {
    arm.subscriptions: _always,
    arm.subscription: _always,
    arm.resources: _always,
    arm.resource_group: _always,
    arm.workspace: _always,
    experiments.get: _own_experiment,
    experiments.create: _own_experiment,
    runs.get: _own_run,
    runs.patch: _patches_own,
    runs.patch_many: _patches_own_runs,
    runs.details: _own_run,
    runs.children: _own_run,
    runs.event: _own_run,
    runs.events: _own_events,
    runs.untag: _own_run,
    runs.metrics_are_in: _own_run,
    runs.token: _own_run,
    submit.cancel: _own_run,
    metrics.append: _own_run,
    metrics.names: _own_run,
    metrics.full: _own_run,
    artifacts.content_information: _reads_artifacts,
    artifacts.content_information_of_run: _own_run,
    artifacts.prefix_information: _reads_artifacts,
    artifacts.create_empty: _uploads_artifacts,
    artifacts.metadata: _reads_artifacts,
    artifacts.listing: _reads_artifacts,
    artifacts.delete: _removes_artifact,
    snapshots.metadata: _own_snapshot,
    snapshots.restore: _own_snapshot,
    environments.get: _own_environment,
    environments.labelled: _own_environment,
    environments.versions: _own_environment,
    compute.listing: _always,
    compute.get: _always,
    datastores.default: _always,
    datastores.listing: _always,
    datastores.get: _always,
    models.create_asset: _makes_asset,
    models.get_asset: _always,
    models.create_model: _registers_model,
    models.query: _always,
    models.get_model: _always,
    mlflow.mlflow: may_call_mlflow,
}
"""What a job may do, by the function that does it, and under which condition."""
