"""Folder: where the embedded workspace keeps its files, and the one way in for names that clients choose."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lockstep.workspace.fault import Fault


@dataclass(frozen=True)
class Folder:
    """The project's `.lockstep/workspace/`; only its owner may look in.

    state.sqlite                runs, environments, metrics, …
    identity.json               the workspace's id and its secrets
    tls/                        certificate authority, certificate, bundle for clients
    artifacts/<origin>/<container>/<path>   what runs leave, as plain files (MLflow reads them here)
    snapshots/<id>              uploaded source files
    datastores/<name>/<path>    data
    runs/<id>/                  working folders of runs that go
    mlflow/                     MLflow's database, socket and log
    server.json, server.log     ports and process of the server that runs; what it did
    workspace.sock              where containers come in whose network doesn't lead here
    ports.json                  the ports of the last one: the next takes the same
    """

    path: Path

    def prepare(self) -> None:
        """Make the folders that must be there; existing ones stay as they are."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.path.chmod(0o700)
        for name in (
            "tls",
            "artifacts",
            "snapshots",
            "datastores/workspaceblobstore",
            "runs",
            "mlflow",
            "tmp",
        ):
            (self.path / name).mkdir(parents=True, exist_ok=True)

    @property
    def tls(self) -> Path:
        return self.path / "tls"

    @property
    def tmp(self) -> Path:
        return self.path / "tmp"

    @property
    def mlflow(self) -> Path:
        return self.path / "mlflow"

    @property
    def socket(self) -> Path:
        return self.path / "workspace.sock"

    def run(self, run_id: str) -> Path:
        return inside(self.path / "runs", run_id)

    def artifacts(self, origin: str, container: str) -> Path:
        return inside(self.path / "artifacts", f"{one_name(origin)}/{one_name(container)}")

    def artifact(self, origin: str, container: str, path: str) -> Path:
        return inside(self.artifacts(origin, container), path)

    def snapshot_blob(self, blob: str) -> Path:
        return inside(self.path / "snapshots", one_name(blob))

    def datastore(self, name: str) -> Path:
        return inside(self.path / "datastores", one_name(name))


def one_name(name: str) -> str:
    """Return `name` if it is a single path segment; refuse it (400) otherwise."""
    if not name or "/" in name or name in (".", "..") or "\0" in name:
        raise Fault(400, f"{name!r} can't be used as a name.")
    return name


def inside(root: Path, name: str) -> Path:
    """Return `root / name`; refuse (400) what would leave `root`, also through a link in it."""
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or "\0" in name or not pure.parts:
        raise Fault(400, f"The path {name!r} leaves its folder.")
    if any(len(os.fsencode(part)) > 255 for part in pure.parts):
        raise Fault(400, f"A name in the path {name[:80]!r}… is longer than 255 bytes.")
    path = root.joinpath(*pure.parts)
    if not path.resolve().is_relative_to(root.resolve()):
        raise Fault(400, f"The path {name!r} leaves its folder.")
    return path
