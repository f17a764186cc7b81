"""Experiments: names for groups of runs. An experiment's id is its id in MLflow too."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from lockstep.workspace.fault import missing
from lockstep.workspace.names import checked
from lockstep.workspace.state import State, now, text


class Experiments:
    """The experiments of one workspace."""

    def __init__(self, state: State) -> None:
        self._state = state

    def create(self, name: str) -> sqlite3.Row:
        """Return the experiment called `name`; make it where there is none."""
        checked("experiment", name)
        with self._state.change() as change:
            change.execute("INSERT OR IGNORE INTO experiments (name, created) VALUES (?, ?)", (name, now()))
        return self.named(name)

    def named(self, name: str) -> sqlite3.Row:
        """Return the experiment called `name`, or refuse with 404."""
        row = self._state.row("SELECT * FROM experiments WHERE name = ?", name)
        if row is None:
            raise missing(f"The experiment {name!r}")
        return row

    def numbered(self, identifier: str) -> sqlite3.Row:
        """Return the experiment of this id, or refuse with 404."""
        row = self._state.row("SELECT * FROM experiments WHERE id = ?", identifier)
        if row is None:
            raise missing(f"The experiment with the id {identifier!r}")
        return row

    def all(self) -> list[sqlite3.Row]:
        """Return every experiment, the newest first."""
        return self._state.rows("SELECT * FROM experiments ORDER BY id DESC")

    def modify(self, identifier: int, fields: dict[str, Any]) -> sqlite3.Row:
        """Merge tags, change description and archive state as the SDK's PATCH says; return the result."""
        with self._state.change() as change:
            row = self.numbered(str(identifier))
            tags = {**json.loads(row["tags"]), **(fields.get("tags") or {})}
            archived = (now() if fields["archive"] else None) if "archive" in fields else row["archived"]
            description = fields.get("description", row["description"])
            change.execute(
                "UPDATE experiments SET tags = ?, description = ?, archived = ? WHERE id = ?",
                (text(tags), description, archived, identifier),
            )
        return self.numbered(str(identifier))

    def untag(self, identifier: int, names: list[str]) -> None:
        """Remove tags."""
        with self._state.change() as change:
            tags = json.loads(self.numbered(str(identifier))["tags"])
            kept = {name: value for name, value in tags.items() if name not in names}
            change.execute("UPDATE experiments SET tags = ? WHERE id = ?", (text(kept), identifier))


def experiment_document(row: sqlite3.Row) -> dict[str, Any]:
    """Return the experiment as Azure ML writes it."""
    return {
        "experimentId": str(row["id"]),
        "name": row["name"],
        "createdUtc": row["created"],
        "tags": json.loads(row["tags"]),
        "description": row["description"] or "",
        "archivedTime": row["archived"],
    }
