"""Runs: what the workspace knows of each run, and the states that it passes through."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from typing import Any

from lockstep.workspace.fault import Fault, error_body, missing
from lockstep.workspace.names import checked
from lockstep.workspace.state import State, now, text

ACTIVE = (
    "NotStarted",
    "Starting",
    "Provisioning",
    "Preparing",
    "Queued",
    "Running",
    "Finalizing",
    "CancelRequested",
)
ENDED = ("Completed", "Failed", "Canceled")
MERGED = ("properties", "tags", "inputs", "outputs")
REPLACED = (
    "name",
    "displayName",
    "description",
    "target",
    "scriptName",
    "hidden",
    "runType",
    "runTypeV2",
    "options",
)
RECORD_LIMIT = 4 * 1024**2
"""Of what is kept about one run (tags, properties, warnings, …), in bytes: all of it is read whenever the run is."""


class Runs:
    """The runs of one workspace. `changed` is called after every change, for whoever mirrors them."""

    def __init__(self, state: State, changed: Callable[[], None] = lambda: None) -> None:
        self._state = state
        self._changed = changed

    def get(self, run_id: str) -> sqlite3.Row:
        """Return the run, or refuse with 404."""
        row = self._state.row("SELECT * FROM runs WHERE id = ?", run_id)
        if row is None:
            raise missing(f"The run {run_id!r}")
        return row

    def exists(self, run_id: str) -> bool:
        """Tell whether there is a run of this id."""
        return self._state.row("SELECT 1 FROM runs WHERE id = ?", run_id) is not None

    def goes(self, run_id: str) -> bool:
        """Tell whether the run is there and hasn't ended."""
        row = self._state.row("SELECT status FROM runs WHERE id = ?", run_id)
        return row is not None and row["status"] not in ENDED

    def descends(self, run_id: str, ancestor: str) -> bool:
        """Tell whether a run is `ancestor`, its child, or a child's child."""
        seen = set[str]()
        while run_id != ancestor:
            row = self._state.row("SELECT parent FROM runs WHERE id = ?", run_id)
            if row is None or not row["parent"] or run_id in seen:
                return False
            seen.add(run_id)
            run_id = row["parent"]
        return True

    def create(
        self, run_id: str, experiment: int, fields: dict[str, Any], *, status: str, definition: Any = None
    ) -> sqlite3.Row:
        """Add a run. One with a `definition` (what was submitted) is the runner's; others are told by their client."""
        checked("run", run_id)
        details = {"properties": {}, "tags": {}, "definition": definition, **_picked({}, fields)}
        with self._state.change() as change:
            if self.exists(run_id):
                raise Fault(409, f"The run {run_id!r} exists already.", "Conflict")
            parent = fields.get("parentRunId")
            root = self.get(parent)["root"] if parent else run_id
            number = self._state.rows("SELECT coalesce(max(number), 0) + 1 AS next FROM runs")[0]["next"]
            moment = now()
            change.execute(
                "INSERT INTO runs (id, experiment, number, parent, root, status, created, started, submitted, details)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (run_id, experiment, number, parent, root, status, moment, moment if status == "Running" else None,
                 moment if definition else None, _record(details)),
            )  # fmt: skip
        self._changed()
        return self.get(run_id)

    def modify(self, run_id: str, fields: dict[str, Any]) -> sqlite3.Row:
        """Merge what a PATCH says: maps are merged, single values replaced, `None` left alone."""
        with self._state.change() as change:
            details = json.loads(self.get(run_id)["details"])
            change.execute(
                "UPDATE runs SET details = ? WHERE id = ?", (_record(_picked(details, fields)), run_id)
            )
        self._changed()
        return self.get(run_id)

    def untag(self, run_id: str, names: list[str]) -> None:
        """Remove tags."""
        with self._state.change() as change:
            details = json.loads(self.get(run_id)["details"])
            details["tags"] = {name: value for name, value in details["tags"].items() if name not in names}
            change.execute("UPDATE runs SET details = ? WHERE id = ?", (text(details), run_id))
        self._changed()

    def enter(
        self, run_id: str, status: str, *, error: str = "", code: str = "UserError", warning: str = ""
    ) -> bool:
        """Move a run on to `status`; a run that ended stays as it is, and the answer is False.

        `error` and `warning` are sentences for a person; start and end times are set on the way.
        """
        with self._state.change() as change:
            row = self.get(run_id)
            if row["status"] in ENDED or (row["status"] == "CancelRequested" and status not in ENDED):
                return False
            details = json.loads(row["details"])
            if error:
                details["error"] = error_body(error, code)
            if warning:
                details["warnings"] = [
                    *details.get("warnings", []),
                    {"source": "Lockstep", "message": warning},
                ]
            started = row["started"] or (now() if status in ("Running", "Completed") else None)
            change.execute(
                "UPDATE runs SET status = ?, started = ?, ended = ?, details = ? WHERE id = ?",
                (status, started, now() if status in ENDED else None, text(details), run_id),
            )
        self._changed()
        return True

    def blame(self, run_id: str, error: Any) -> None:
        """Keep the error that a job reported about itself."""
        with self._state.change() as change:
            details = json.loads(self.get(run_id)["details"])
            details["error"] = error
            change.execute("UPDATE runs SET details = ? WHERE id = ?", (_record(details), run_id))

    def warn(self, run_id: str, warning: dict[str, Any]) -> None:
        """Keep a warning with the run."""
        with self._state.change() as change:
            details = json.loads(self.get(run_id)["details"])
            details["warnings"] = [*details.get("warnings", []), warning]
            change.execute("UPDATE runs SET details = ? WHERE id = ?", (_record(details), run_id))

    def children(self, run_id: str) -> list[sqlite3.Row]:
        """Return the direct children, the newest first."""
        return self._state.rows("SELECT * FROM runs WHERE parent = ? ORDER BY number DESC", run_id)

    def of_experiment(self, experiment: int) -> list[sqlite3.Row]:
        """Return an experiment's runs, the newest first."""
        return self._state.rows("SELECT * FROM runs WHERE experiment = ? ORDER BY number DESC", experiment)

    def unfinished(self) -> list[sqlite3.Row]:
        """Return the submitted runs that haven't ended, the oldest first."""
        rows = self._state.rows("SELECT * FROM runs WHERE submitted IS NOT NULL ORDER BY number")
        return [row for row in rows if row["status"] not in ENDED]


def _record(details: dict[str, Any]) -> str:
    """Return what is kept about a run as text; refuse (413) what makes it too long. A run's own end always fits."""
    record = text(details)
    if len(record.encode()) > RECORD_LIMIT:
        raise Fault(
            413,
            f"With this, the run's tags, properties, inputs, outputs and warnings would be more than "
            f"{RECORD_LIMIT >> 20} MiB. Write what is long to a file in outputs/.",
            "RequestTooLarge",
        )
    return record


def _picked(details: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """Return `details` with the parts of a PATCH that are kept."""
    merged = {
        name: {**details.get(name, {}), **(fields.get(name) or {})} for name in MERGED if name in fields
    }
    replaced = {name: fields[name] for name in REPLACED if fields.get(name) is not None}
    return {**details, **merged, **replaced}


def container_of(run_id: str) -> str:
    """Return the name of the artifact container of a run."""
    return f"dcid.{run_id}"


def run_document(row: sqlite3.Row, base: str, ws: str) -> dict[str, Any]:
    """Return the run as Azure ML's RunDto; `base` and `ws` give its cancel address."""
    details = json.loads(row["details"])
    definition = details.get("definition") or {}
    submitted = row["submitted"] is not None
    return {
        "runId": row["id"],
        "runUuid": row["id"],
        "rootRunId": row["root"],
        "rootRunUuid": row["root"],
        "parentRunId": row["parent"],
        "runNumber": row["number"],
        "experimentId": str(row["experiment"]),
        "dataContainerId": container_of(row["id"]),
        "status": row["status"],
        "runType": details.get("runType") or ("azureml.scriptrun" if submitted else None),
        "runTypeV2": details.get("runTypeV2"),
        "name": details.get("name"),
        "displayName": details.get("displayName") or row["id"],
        "description": details.get("description"),
        "scriptName": details.get("scriptName") or definition.get("script"),
        "target": details.get("target") or definition.get("target"),
        "properties": details["properties"],
        "tags": details["tags"],
        "inputs": details.get("inputs", {}),
        "outputs": details.get("outputs", {}),
        "createdUtc": row["created"],
        "startTimeUtc": row["started"],
        "endTimeUtc": row["ended"],
        "createdBy": {"userName": "local"},
        "cancelUri": f"{base}/execution/v1.0{ws}/runs/{row['id']}/cancel" if submitted else None,
        "error": details.get("error"),
        "warnings": details.get("warnings", []),
        "hidden": bool(details.get("hidden")),
    }
