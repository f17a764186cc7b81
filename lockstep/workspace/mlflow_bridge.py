"""The bridge to MLflow: experiments, runs, states, tags and metrics of the workspace appear in MLflow, as they come.

Experiments and runs are put into MLflow's database under the ids that they have here, because its REST interface makes
up ids of its own. That is the only place that knows its tables (mlflow 3.15); all else goes through REST.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

from lockstep.workspace.metrics import Metrics
from lockstep.workspace.mlflow_server import MLflowServer
from lockstep.workspace.mlflow_terms import STATES, items, milliseconds, name_of, tags_of
from lockstep.workspace.set_aside import LONGEST_SECONDS, SetAside
from lockstep.workspace.state import State

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("lockstep.workspace")
BATCH = 1000
BROUGHT, LEFT = "mirrored row", "metrics left"
"""What the state notes: up to which row of metrics MLflow was sent them, and since which row it lacks a run's."""
FOLDERS = "taking the folders from MLflow"


class Bridge:
    """Brings MLflow up to date, in a thread, whenever it is woken. What it has brought is noted in the state.

    What fails for one run or experiment is set aside and tried again; the others go on.
    """

    def __init__(self, state: State, metrics: Metrics, server: MLflowServer) -> None:
        self._state, self._metrics, self._server = state, metrics, server
        self._news = threading.Event()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._aside = SetAside(_mlflow_is_gone)

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
        """Bring everything that is new; returns when MLflow has it. What it can't take is set aside for later.

        Raises httpx.ConnectError when MLflow is gone.
        """
        with self._lock, self._server.client() as client:
            if not self._aside.waits(FOLDERS):
                with self._aside.trying(FOLDERS):
                    self._forget_folders()
            self._bring_names()
            self._bring_states(client)
            self._bring_left(client)
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
        pause: float | None = None
        while True:
            self._news.wait(pause)
            self._news.clear()
            if self._closed.is_set():
                return
            try:
                self.bring_all()
                pause = self._aside.seconds()
            except Exception:  # the state remembers what is missing
                pause = min(2 * (pause or 0.5), LONGEST_SECONDS)
                if not self._closed.is_set():
                    log.exception("MLflow could not be brought up to date; again in %.0f s", pause)
            self._closed.wait(0.2)  # so that many small news travel together

    def _forget_folders(self) -> None:
        """Take from MLflow, once, the folders that earlier versions gave it: it would follow links in them."""
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
        with contextlib.closing(sqlite3.connect(self._server.database, timeout=30)) as database:
            for table, insert, rows in (
                ("experiments", self._insert_experiment, experiments),
                ("runs", self._insert_run, runs),
            ):
                for row in rows:
                    name = f"bringing {row['id']} of {table}"
                    if self._aside.waits(name):
                        continue
                    with self._aside.trying(name):
                        with database:
                            insert(database, row)
                        with self._state.change() as change:
                            change.execute(f"UPDATE {table} SET mirrored = 1 WHERE id = ?", (row["id"],))  # noqa: S608

    def _insert_experiment(self, database: sqlite3.Connection, row: sqlite3.Row) -> None:
        moment, name = milliseconds(row["created"]), row["name"]
        place = f"azureml://experiments/{row['id']}"
        database.execute(
            "INSERT OR IGNORE INTO experiments (experiment_id, name, artifact_location, lifecycle_stage,"
            " creation_time, last_update_time) VALUES (?, ?, ?, 'active', ?, ?)",
            (row["id"], name, place, moment, moment),
        )

    def _insert_run(self, database: sqlite3.Connection, row: sqlite3.Row) -> None:
        place = f"azureml://experiments/{row['experiment']}/runs/{row['id']}/artifacts"
        started = milliseconds(row["started"] or row["created"])
        database.execute(
            "INSERT OR IGNORE INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id,"
            " status, start_time, source_version, lifecycle_stage, artifact_uri, experiment_id)"
            " VALUES (?, ?, 'PROJECT', '', '', 'local', 'SCHEDULED', ?, '', 'active', ?, ?)",
            (row["id"], name_of(row), started, place, row["experiment"]),
        )
        for key, value in tags_of(row).items():
            database.execute(
                "INSERT OR REPLACE INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", (key, value, row["id"])
            )

    def _bring_states(self, client: httpx.Client) -> None:
        """Tell states, names and tags that changed."""
        for row in self._state.rows("SELECT * FROM runs WHERE mirrored = 1"):
            name = f"the state of run {row['id']}"
            if not self._aside.waits(name):
                with self._aside.trying(name):
                    self._bring_state(client, row)

    def _bring_state(self, client: httpx.Client, row: sqlite3.Row) -> None:
        now = json.dumps([row["status"], name_of(row), tags_of(row)], sort_keys=True)
        if now == row["mirrored_status"]:
            return
        update: dict[str, Any] = {"run_id": row["id"], "status": STATES.get(row["status"], "SCHEDULED")}
        update["run_name"] = name_of(row)
        if row["ended"]:
            update["end_time"] = milliseconds(row["ended"])
        _post(client, "runs/update", update)
        tags = [{"key": key, "value": value} for key, value in tags_of(row).items()]
        _post_items(client, row["id"], "tags", tags)
        with self._state.change() as change:
            change.execute("UPDATE runs SET mirrored_status = ? WHERE id = ?", (now, row["id"]))

    def _bring_metrics(self, client: httpx.Client) -> bool:
        """Bring the next metrics; False when there are none. Those of a run that is set aside are left for later."""
        rows = self._metrics.numbers_after(int(self._state.note(BROUGHT, "0")), BATCH)
        by_run: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_run.setdefault(row["run"], []).append(row)
        left = self._left()
        for run, own in by_run.items():
            if run not in left and not self._send_metrics(client, run, own):
                left[run] = own[0]["row"] - 1
        if rows:
            with self._state.change():
                self._state.keep(LEFT, json.dumps(left))
                self._state.keep(BROUGHT, str(rows[-1]["row"]))
        return bool(rows)

    def _bring_left(self, client: httpx.Client) -> None:
        """Bring the metrics that were left, of each run whose time has come."""
        end = int(self._state.note(BROUGHT, "0"))
        for run, start in self._left().items():
            at = start
            while at < end and (rows := self._metrics.numbers_after(at, BATCH, run=run, end=end)):
                if not self._send_metrics(client, run, rows):
                    break
                at = rows[-1]["row"]
            else:
                at = end
            left = self._left()
            if at < end:
                left[run] = at
            else:
                left.pop(run, None)
            self._state.keep(LEFT, json.dumps(left))

    def _left(self) -> dict[str, int]:
        """Return run -> the last row that MLflow has, of the runs with metrics that it lacks."""
        left: dict[str, int] = json.loads(self._state.note(LEFT, "{}"))
        return left

    def _send_metrics(self, client: httpx.Client, run: str, rows: list[dict[str, Any]]) -> bool:
        """Send a run's metrics; False if that is to be tried later."""
        name = f"sending metrics of run {run}"
        done = False
        if not self._aside.waits(name):
            with self._aside.trying(name):
                numbers = [number for row in rows for number in _numbers(row)]
                for start in range(0, len(numbers), BATCH):
                    _post_items(client, run, "metrics", numbers[start : start + BATCH])
                done = True
        return done


def _mlflow_is_gone(error: Exception) -> bool:
    import httpx

    return isinstance(error, httpx.ConnectError)


def _numbers(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row's numbers in MLflow's terms; none of a row that can't be read, which is logged."""
    try:
        return items(row)
    except ValueError as error:
        log.warning("row %d of the metrics can't be read: %s", row["row"], error)
        return []


def _post_items(client: httpx.Client, run: str, kind: str, items: list[dict[str, Any]]) -> None:
    """Log a batch of metrics or tags; where MLflow refuses it, its halves, so that one bad one is lost alone."""
    if items and not _post(client, "runs/log-batch", {"run_id": run, kind: items}) and len(items) > 1:
        middle = len(items) // 2
        _post_items(client, run, kind, items[:middle])
        _post_items(client, run, kind, items[middle:])


def _post(client: httpx.Client, method: str, body: dict[str, Any]) -> bool:
    """Post; False when MLflow refuses it, which is logged. Raises httpx.HTTPError when it fails."""
    answer = client.post(f"/api/2.0/mlflow/{method}", json=body)
    if answer.status_code >= 500:
        answer.raise_for_status()
    if answer.status_code >= 400:
        log.warning("MLflow refused %s: %s", method, ascii(answer.text[:300]))
    return answer.status_code < 400
