"""What a run may read and write in the datastore: what its data references name, and a folder of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lockstep.workspace.fault import Fault

if TYPE_CHECKING:
    from lockstep.workspace.site import Site

OWN = "azureml/{run}"
"""Where Azure ML puts what a run writes without naming a place (its outputs' default path)."""


@dataclass(frozen=True)
class DataRights:
    """The folders or files of the datastore that a run may read, and those that it may change; "" is all of it.

    `run` is the run's id, "" for the workspace's owner, who may do both everywhere.
    """

    run: str = ""
    readable: tuple[str, ...] = ("",)
    writable: tuple[str, ...] = ("",)

    def read(self, path: str) -> bool:
        """Tell whether the blob at `path` may be read."""
        return _is_below(path, (*self.readable, *self.writable))

    def write(self, path: str) -> bool:
        """Tell whether the blob at `path` may be written or removed."""
        return _is_below(path, self.writable)

    def check(self, path: str, *, write: bool) -> None:
        """Refuse (403) what isn't allowed at `path`."""
        if not (self.write(path) if write else self.read(path)):
            wanted = "an upload reference" if write else "a data reference"
            raise Fault(
                403,
                f"The run {self.run!r} may not {'write' if write else 'read'} {path!r} in the datastore. "
                f"Give it {wanted} to that path, or use {OWN.format(run=self.run)!r}, which is its own.",
                "AuthorizationPermissionMismatch",
            )


def rights_on_data(site: Site, run: str) -> DataRights:
    """Return what the holder of a signed address may do: `run` is a run's id, "" for the workspace's owner."""
    if not run:
        return DataRights()
    definition = json.loads(site.runs.get(run)["details"]).get("definition") or {}
    readable: list[str] = []
    writable = [OWN.format(run=run)]
    for reference in (definition.get("dataReferences") or {}).values():
        (writable if _is_upload(reference) else readable).append(_path(reference))
    return DataRights(run, tuple(readable), tuple(writable))


def _is_upload(reference: dict[str, Any]) -> bool:
    return str(reference.get("mode")).lower() == "upload"


def _path(reference: dict[str, Any]) -> str:
    return str(reference.get("pathOnDataStore") or "").strip("/")


def _is_below(path: str, roots: tuple[str, ...]) -> bool:
    path = path.rstrip("/")
    return any(not root or path == root or path.startswith(f"{root}/") for root in roots)
