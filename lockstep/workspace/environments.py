"""Environments: named, versioned definitions; registering the same one again makes no new version."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from typing import Any

from lockstep.workspace.fault import Fault, missing
from lockstep.workspace.names import checked
from lockstep.workspace.run_shapes import Environment
from lockstep.workspace.shapes import fitting
from lockstep.workspace.state import State, now, text

FIELDS = ("python", "environmentVariables", "docker", "spark", "r", "inferencingStackVersion", "assetId")
RESERVED = ("azureml", "microsoft")


class Environments:
    """The environments of one workspace."""

    def __init__(self, state: State) -> None:
        self._state = state

    def register(self, name: str, sent: dict[str, Any], version: str | None = None) -> dict[str, Any]:
        """Keep a definition and return it with its version: the existing one's, where it is the same, or the next.

        Azure counts versions from 1; a client may name its own. A version can't change what it means (409).
        """
        checked("environment", name)
        if version is not None:
            checked("version", version)
        if name.lower().startswith(RESERVED):
            raise Fault(
                400, f"The environment name {name!r} is reserved: it may not begin with AzureML or Microsoft."
            )
        definition = fitting(Environment, normalised(sent), "The environment")
        digest = definition_hash(definition)
        with self._state.change() as change:
            same = self._state.row("SELECT * FROM environments WHERE name = ? AND hash = ?", name, digest)
            if same is not None and version in (None, same["version"]):
                return environment_document(same)
            if version is not None and self._find(name, version) is not None:
                raise Fault(
                    409,
                    f"Version {version} of the environment {name!r} exists and is another one.",
                    "Conflict",
                )
            last = self._state.row("SELECT max(number) AS number FROM environments WHERE name = ?", name)
            number = (last["number"] if last and last["number"] else 0) + 1
            values = (name, number, version or str(number), text(definition), digest, now())
            change.execute("INSERT INTO environments VALUES (?, ?, ?, ?, ?, ?)", values)
        return self.get(name, version or str(number))

    def get(self, name: str, version: str | None = None) -> dict[str, Any]:
        """Return a version, or the latest; refuse with 404, saying that curated ones live in Azure."""
        row = self._find(name, version)
        if row is None:
            what = f"The environment {name!r}" + (f" in version {version}" if version else "")
            if name.lower().startswith(RESERVED):
                raise Fault(
                    404, f"{what} is one of Azure's curated environments, which only Azure has.", "NotFound"
                )
            raise missing(what)
        return environment_document(row)

    def versions(self, name: str) -> list[dict[str, Any]]:
        """Return every version, the newest first."""
        rows = self._state.rows("SELECT * FROM environments WHERE name = ? ORDER BY number DESC", name)
        return [environment_document(row) for row in rows]

    def latest(self) -> list[dict[str, Any]]:
        """Return the latest version of each environment, by name."""
        rows = self._state.rows("SELECT *, max(number) FROM environments GROUP BY name ORDER BY name")
        return [environment_document(row) for row in rows]

    def _find(self, name: str, version: str | None) -> sqlite3.Row | None:
        if version is None:
            query = "SELECT * FROM environments WHERE name = ? ORDER BY number DESC LIMIT 1"
            return self._state.row(query, name)
        return self._state.row("SELECT * FROM environments WHERE name = ? AND version = ?", name, version)


def normalised(sent: dict[str, Any]) -> dict[str, Any]:
    """Return a definition with its fields as Azure spells them; the SDK writes `Docker` and `docker` alike."""
    by_case = {key.lower(): value for key, value in sent.items()}
    return {field: by_case[field.lower()] for field in FIELDS if by_case.get(field.lower()) is not None}


def definition_hash(definition: dict[str, Any]) -> str:
    """Return the hash of what a definition makes; its name and version don't count."""
    return hashlib.sha256(text(definition).encode()).hexdigest()


def environment_document(row: sqlite3.Row) -> dict[str, Any]:
    """Return the environment as Azure ML writes it."""
    definition = json.loads(row["definition"])
    return {
        "name": row["name"],
        "version": row["version"],
        **{field: definition.get(field) for field in FIELDS},
    }
