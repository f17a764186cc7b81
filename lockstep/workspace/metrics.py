"""Metrics: what runs log, whether through the SDK's `run.log` or through MLflow."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lockstep.workspace.fault import missing
from lockstep.workspace.state import State, iso, now, text

SCALAR = "azureml.v1.scalar"
INSERT = (
    "INSERT OR IGNORE INTO metric_values (run, name, metric, created, step, data, kind, columns)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


class Metrics:
    """The metrics of every run, in the order in which they came. `changed` is called after new ones."""

    def __init__(self, state: State, changed: Callable[[], None] = lambda: None) -> None:
        self._state = state
        self.changed = changed

    def add_batch(self, run_id: str, entries: Iterable[dict[str, Any]]) -> None:
        """Append a batch of shapes.MetricEntry; a value that was sent before (same metric id) isn't added again."""
        with self._state.change() as change:
            for entry in entries:
                name, columns, kind = _shape(entry)
                for value in entry.get("value") or []:
                    created, step = value.get("createdUtc") or now(), value.get("step")
                    data = json.dumps(value.get("data") or {})
                    values = (
                        run_id,
                        name,
                        str(value.get("metricId")),
                        created,
                        step,
                        data,
                        kind,
                        text(columns),
                    )
                    change.execute(INSERT, values)
        self.changed()

    def add_numbers(self, run_id: str, numbers: Iterable[tuple[str, float, int, int]]) -> None:
        """Append what MLflow's interface was sent: (name, value, milliseconds since 1970, step)."""
        with self._state.change() as change:
            for name, value, moment, step in numbers:
                identity = hashlib.sha256(f"{name}\0{value!r}\0{moment}\0{step}".encode()).hexdigest()[:32]
                created = iso(moment / 1000) if moment else now()
                columns = text({name: "double"})
                values = (run_id, name, identity, created, step, json.dumps({name: value}), SCALAR, columns)
                change.execute(INSERT, values)
        self.changed()

    def names(self, run_id: str) -> list[dict[str, Any]]:
        """Return the names and columns of a run's metrics, in the order of their first value."""
        rows = self._state.rows(
            "SELECT name, columns, min(row) FROM metric_values WHERE run = ? GROUP BY name ORDER BY 3", run_id
        )
        return [
            {"metricKey": {"namespace": "", "name": row["name"]}, "columns": json.loads(row["columns"])}
            for row in rows
        ]

    def full(self, run_id: str, name: str, container: str) -> dict[str, Any]:
        """Return one metric with all its values, or refuse with 404."""
        rows = self._state.rows(
            "SELECT * FROM metric_values WHERE run = ? AND name = ? ORDER BY row", run_id, name
        )
        if not rows:
            raise missing(f"The metric {name!r} of the run {run_id!r}")
        values = [
            {
                "metricId": row["metric"],
                "createdUtc": row["created"],
                "step": row["step"] or 0,
                "data": json.loads(row["data"]),
            }
            for row in rows
        ]
        return {
            "name": name,
            "namespace": "",
            "dataContainerId": container,
            "columns": json.loads(rows[0]["columns"]),
            "properties": {"uxMetricType": rows[0]["kind"]},
            "value": values,
            "continuationToken": None,
        }

    def numbers_after(
        self, row: int, limit: int = 1000, *, run: str | None = None, end: int | None = None
    ) -> list[dict[str, Any]]:
        """Return what was logged after row number `row`: one item per row, with MLflow's key, value and step.

        `run` asks for one run's rows only, `end` for those up to a row.
        """
        rows = self._state.rows(
            "SELECT * FROM metric_values WHERE row > ? AND (? IS NULL OR run = ?) AND (? IS NULL OR row <= ?)"
            " ORDER BY row LIMIT ?",
            row,
            run,
            run,
            end,
            end,
            limit,
        )
        steps = self._steps(rows)
        return [
            {
                "row": row["row"],
                "run": row["run"],
                "created": row["created"],
                "step": step,
                "values": {
                    row["name"] if key == row["name"] else f"{row['name']}/{key}": float(value)
                    for key, value in json.loads(row["data"]).items()
                    if isinstance(value, int | float)
                },
            }
            for row, step in zip(rows, steps, strict=True)
        ]

    def _steps(self, rows: Iterable[sqlite3.Row]) -> Iterator[int]:
        """Yield each row's step: as it was sent, or else how many values of its metric came before it.

        Those are counted once for each metric, not for each row: a job may log a million.
        """
        earlier: dict[tuple[str, str], int] = {}
        for row in rows:
            metric = (row["run"], row["name"])
            if metric not in earlier:
                count = "SELECT count(*) AS earlier FROM metric_values WHERE run = ? AND name = ? AND row < ?"
                earlier[metric] = self._state.rows(count, *metric, row["row"])[0]["earlier"]
            yield earlier[metric] if row["step"] is None else row["step"]
            earlier[metric] += 1


def _shape(entry: dict[str, Any]) -> tuple[str, dict[str, Any], str]:
    """Return a posted metric's name, columns and kind."""
    kind = (entry.get("properties") or {}).get("uxMetricType") or SCALAR
    return entry["name"], entry.get("columns") or {}, kind
