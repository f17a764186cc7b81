"""MLflow's terms: what it calls a run's state, name, tags and numbers, and which of their names it takes."""

from __future__ import annotations

import json
import math
import sqlite3
from typing import Any

from lockstep.workspace.state import moment

STATES = {
    "Completed": "FINISHED",
    "Failed": "FAILED",
    "Canceled": "KILLED",
    "Running": "RUNNING",
    "Finalizing": "RUNNING",
}


def items(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the numbers of a row of metrics as MLflow takes them."""
    numbers = []
    for key, value in row["values"].items():
        number = (
            value
            if math.isfinite(value)
            else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
        )
        created = milliseconds(row["created"])
        numbers.append({"key": _allowed(key), "value": number, "timestamp": created, "step": row["step"]})
    return numbers


def name_of(row: sqlite3.Row) -> str:
    """Return the name under which MLflow shows a run."""
    details = json.loads(row["details"])
    return str(details.get("displayName") or details.get("name") or row["id"])


def tags_of(row: sqlite3.Row) -> dict[str, str]:
    """Return a run's tags, and those that MLflow itself reads."""
    details = json.loads(row["details"])
    own = {
        _allowed(key): str(value)[:8000]
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


def milliseconds(time: str) -> int:
    """Return an ISO time as MLflow counts: milliseconds since 1970."""
    return int(moment(time) * 1000)
