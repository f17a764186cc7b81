"""The bridge to MLflow: experiments, runs, states, tags and metrics of the workspace appear in MLflow, as they come.

Experiments and runs are put into MLflow's database under the ids that they have here, because its REST interface makes
up ids of its own. That is the only place that knows its tables (mlflow 3.15); all else goes through REST.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sqlite3
import threading
from datetime import datetime
from typing import TYPE_CHECKING, Any

from lockstep.workspace.metrics import Metrics
from lockstep.workspace.mlflow_server import MLflowServer
from lockstep.workspace.state import State

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("lockstep.workspace")
STATES = {
    "Completed": "FINISHED",
    "Failed": "FAILED",
    "Canceled": "KILLED",
    "Running": "RUNNING",
    "Finalizing": "RUNNING",
}
BATCH = 1000


class Bridge:
    """Brings MLflow up to date, in a thread, whenever it is woken. What it has brought is noted in the state."""

    def __init__(self, state: State, metrics: Metrics, server: MLflowServer) -> None:
        self._state, self._metrics, self._server = state, metrics, server
        self._news = threading.Event()
        self._closed = threading.Event()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin to follow."""
        if self._server.is_installed:
            threading.Thread(target=self._follow, daemon=True, name="mlflow bridge").start()

    def stop(self) -> None:
        """Follow no more."""
        self._closed.set()
        self._news.set()

    def wake(self) -> None:
        """Say that there is something new."""
        self._news.set()

    def bring_all(self) -> None:
        """Bring everything that is new; returns when MLflow has it."""
        with self._lock, self._server.client() as client:
            self._forget_folders()
            self._bring_names()
            self._bring_states(client)
            while self._bring_metrics(client):
                pass

    def bring_names(self) -> None:
        """Bring experiments and runs only, before a request of a client that names one."""
        with self._lock:
            self._bring_names()

    def adopt_run(self, run_id: str) -> None:
        """Make a run that MLflow itself created ours: its artifacts are where ours are."""
        with (
            self._lock,
            contextlib.closing(sqlite3.connect(self._server.database, timeout=30)) as database,
            database,
        ):
            database.execute(
                "UPDATE runs SET artifact_uri = 'azureml://experiments/' || experiment_id || '/runs/' || run_uuid"
                " || '/artifacts' WHERE run_uuid = ?",
                (run_id,),
            )

    def adopt_model(self, model_id: str, run_id: str) -> None:
        """Tell MLflow that a logged model's files are among its run's artifacts, where its client puts them."""
        with (
            self._lock,
            contextlib.closing(sqlite3.connect(self._server.database, timeout=30)) as database,
            database,
        ):
            database.execute(
                "UPDATE logged_models SET artifact_location = 'azureml://experiments/' || experiment_id || '/runs/'"
                " || ? || '/artifacts/models/' || model_id WHERE model_id = ?",
                (run_id, model_id),
            )

    def _follow(self) -> None:
        while not self._server.wait(1.0):
            if self._closed.is_set():
                return
        self._news.set()
        while True:
            self._news.wait()
            self._news.clear()
            if self._closed.is_set():
                return
            try:
                self.bring_all()
            except Exception:  # the state remembers what is missing: the next news bring it
                if not self._closed.is_set():
                    log.exception("MLflow could not be brought up to date")
            self._closed.wait(0.2)  # so that many small news travel together

    def _forget_folders(self) -> None:
        """Take from MLflow, once, the folders that it was given before 0.2: it would follow links in them."""
        if self._state.note("artifacts have addresses", ""):
            return
        with contextlib.closing(sqlite3.connect(self._server.database, timeout=30)) as database, database:
            database.execute(
                "UPDATE runs SET artifact_uri = 'azureml://experiments/' || experiment_id || '/runs/' || run_uuid"
                " || '/artifacts' WHERE artifact_uri LIKE 'file:%/artifacts/ExperimentRun/dcid.%'"
            )
            database.execute(
                "UPDATE logged_models SET artifact_location = 'azureml://experiments/' || experiment_id || '/runs/'"
                " || source_run_id || '/artifacts/models/' || model_id"
                " WHERE artifact_location LIKE 'file:%/artifacts/ExperimentRun/dcid.%'"
            )
        self._state.keep("artifacts have addresses", "yes")

    def _bring_names(self) -> None:
        experiments = self._state.rows("SELECT * FROM experiments WHERE mirrored = 0")
        runs = self._state.rows("SELECT * FROM runs WHERE mirrored = 0 ORDER BY number")
        if not experiments and not runs:
            return
        with contextlib.closing(sqlite3.connect(self._server.database, timeout=30)) as database, database:
            for row in experiments:
                moment, name = _milliseconds(row["created"]), row["name"]
                place = f"azureml://experiments/{row['id']}"
                database.execute(
                    "INSERT OR IGNORE INTO experiments (experiment_id, name, artifact_location, lifecycle_stage,"
                    " creation_time, last_update_time) VALUES (?, ?, ?, 'active', ?, ?)",
                    (row["id"], name, place, moment, moment),
                )
            for row in runs:
                place = f"azureml://experiments/{row['experiment']}/runs/{row['id']}/artifacts"
                started = _milliseconds(row["started"] or row["created"])
                database.execute(
                    "INSERT OR IGNORE INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id,"
                    " status, start_time, source_version, lifecycle_stage, artifact_uri, experiment_id)"
                    " VALUES (?, ?, 'PROJECT', '', '', 'local', 'SCHEDULED', ?, '', 'active', ?, ?)",
                    (row["id"], _name_of(row), started, place, row["experiment"]),
                )
                for key, value in _tags_of(row).items():
                    database.execute(
                        "INSERT OR REPLACE INTO tags (key, value, run_uuid) VALUES (?, ?, ?)",
                        (key, value, row["id"]),
                    )
        with self._state.change() as change:
            change.executemany(
                "UPDATE experiments SET mirrored = 1 WHERE id = ?", [(row["id"],) for row in experiments]
            )
            change.executemany("UPDATE runs SET mirrored = 1 WHERE id = ?", [(row["id"],) for row in runs])

    def _bring_states(self, client: httpx.Client) -> None:
        """Tell states, names and tags that changed."""
        for row in self._state.rows("SELECT * FROM runs WHERE mirrored = 1"):
            now = json.dumps([row["status"], _name_of(row), _tags_of(row)], sort_keys=True)
            if now == row["mirrored_status"]:
                continue
            update: dict[str, Any] = {"run_id": row["id"], "status": STATES.get(row["status"], "SCHEDULED")}
            update["run_name"] = _name_of(row)
            if row["ended"]:
                update["end_time"] = _milliseconds(row["ended"])
            _post(client, "runs/update", update)
            tags = [{"key": key, "value": value} for key, value in _tags_of(row).items()]
            if tags:
                _post(client, "runs/log-batch", {"run_id": row["id"], "tags": tags})
            with self._state.change() as change:
                change.execute("UPDATE runs SET mirrored_status = ? WHERE id = ?", (now, row["id"]))

    def _bring_metrics(self, client: httpx.Client) -> bool:
        """Bring the next metrics; False when there are none."""
        rows = self._metrics.numbers_after(int(self._state.note("mirrored row", "0")), BATCH)
        by_run: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            for key, value in row["values"].items():
                moment = _milliseconds(row["created"])
                number = (
                    value
                    if math.isfinite(value)
                    else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
                )
                item = {"key": _allowed(key), "value": number, "timestamp": moment, "step": row["step"]}
                by_run.setdefault(row["run"], []).append(item)
        for run, items in by_run.items():
            for start in range(0, len(items), BATCH):
                _post(client, "runs/log-batch", {"run_id": run, "metrics": items[start : start + BATCH]})
        if rows:
            self._state.keep("mirrored row", str(rows[-1]["row"]))
        return bool(rows)


def _post(client: httpx.Client, method: str, body: dict[str, Any]) -> None:
    answer = client.post(f"/api/2.0/mlflow/{method}", json=body)
    if answer.status_code >= 400:
        log.warning("MLflow refused %s: %s", method, answer.text[:300])
        if answer.status_code >= 500:
            answer.raise_for_status()


def _name_of(row: sqlite3.Row) -> str:
    details = json.loads(row["details"])
    return str(details.get("displayName") or details.get("name") or row["id"])


def _tags_of(row: sqlite3.Row) -> dict[str, str]:
    details = json.loads(row["details"])
    own = {
        key: str(value)[:8000]
        for key, value in details.get("tags", {}).items()
        if key and not key.startswith("mlflow.")
    }
    parent = {"mlflow.parentRunId": row["parent"]} if row["parent"] else {}
    script = details.get("scriptName")
    return {**own, **parent, "mlflow.user": "local", **({"mlflow.source.name": script} if script else {})}


def _allowed(key: str) -> str:
    """Return a metric's name with what MLflow doesn't take replaced by `_`."""
    kept = "".join(letter if letter.isalnum() or letter in "_-. /:" else "_" for letter in key)
    return kept.strip("/.")[:250] or "_"


def _milliseconds(moment: str) -> int:
    """Return an ISO time as MLflow counts: milliseconds since 1970."""
    return int(datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp() * 1000)
