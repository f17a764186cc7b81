"""Computes: compute targets of this machine; a target is a queue with so many nodes."""

from __future__ import annotations

import json
from typing import Any

from lockstep.workspace.fault import Fault, missing
from lockstep.workspace.identity import ARM_PATH
from lockstep.workspace.names import checked
from lockstep.workspace.state import State, text

DEFAULT = "cpu-cluster"
DEFAULT_NODES = 4


class Computes:
    """The compute targets of one workspace. There is always `cpu-cluster`, the one that Azure's tutorial uses."""

    def __init__(self, state: State, nodes: int = DEFAULT_NODES) -> None:
        self._state = state
        with state.change() as change:
            change.execute("INSERT OR IGNORE INTO computes VALUES (?, ?, '{}')", (DEFAULT, nodes))

    def nodes(self, name: str) -> int:
        """Return how many nodes a target has, or refuse with 404."""
        row = self._state.row("SELECT nodes FROM computes WHERE name = ?", name)
        if row is None:
            known = ", ".join(
                repr(one["name"]) for one in self._state.rows("SELECT name FROM computes ORDER BY name")
            )
            raise Fault(
                404,
                f"The compute target {name!r} is not in this workspace; it has {known}.",
                "ComputeNotFound",
            )
        return int(row["nodes"])

    def create(self, name: str, sent: dict[str, Any]) -> dict[str, Any]:
        """Make a target, or change its number of nodes; `sent` is a shapes.Compute."""
        checked("compute", name)
        inner = (sent.get("properties") or {}).get("properties") or {}
        nodes = ((inner.get("scaleSettings") or {}).get("maxNodeCount")) or DEFAULT_NODES
        if not 1 <= nodes <= 100:
            raise Fault(400, f"A compute target has 1 to 100 nodes, not {nodes!r}.")
        with self._state.change() as change:
            change.execute("INSERT OR REPLACE INTO computes VALUES (?, ?, ?)", (name, nodes, text(inner)))
        return self.get(name)

    def delete(self, name: str) -> None:
        """Remove a target."""
        self.nodes(name)
        with self._state.change() as change:
            change.execute("DELETE FROM computes WHERE name = ?", (name,))

    def get(self, name: str) -> dict[str, Any]:
        """Return a target as Azure ML writes it, or refuse with 404."""
        row = self._state.row("SELECT * FROM computes WHERE name = ?", name)
        if row is None:
            raise missing(f"The compute target {name!r}")
        inner = json.loads(row["document"])
        scale = {
            "minNodeCount": 0,
            "nodeIdleTimeBeforeScaleDown": "PT120S",
            **(inner.get("scaleSettings") or {}),
        }
        return {
            "id": f"{ARM_PATH}/computes/{name}",
            "name": name,
            "location": "local",
            "tags": {},
            "properties": {
                "computeType": "AmlCompute",
                "computeLocation": "local",
                "description": "Containers of this machine's engine, run by Lockstep",
                "resourceId": None,
                "provisioningState": "Succeeded",
                "provisioningErrors": None,
                "isAttachedCompute": False,
                "properties": {
                    "vmSize": inner.get("vmSize") or "THIS_MACHINE",
                    "vmPriority": inner.get("vmPriority") or "Dedicated",
                    "subnet": None,
                    "allocationState": "Steady",
                    "currentNodeCount": row["nodes"],
                    "targetNodeCount": row["nodes"],
                    "nodeStateCounts": {},
                    "errors": None,
                    "scaleSettings": {**scale, "maxNodeCount": row["nodes"]},
                },
            },
        }

    def all(self) -> list[dict[str, Any]]:
        """Return every target, by name."""
        return [self.get(row["name"]) for row in self._state.rows("SELECT name FROM computes ORDER BY name")]
