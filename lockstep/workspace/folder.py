"""Folder: where the embedded workspace keeps its files, and the one way in for names that clients choose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lockstep.root import Root, UnsafeNameError, parts_of
from lockstep.workspace.fault import Fault


@dataclass(frozen=True)
class Folder:
    """The project's `.lockstep/workspace/`; only its owner may look in.

    state.sqlite                runs, environments, metrics, …
    identity.json               the workspace's id and its secrets
    tls/                        certificate authority, certificate, bundle for clients
    artifacts/<origin>/<container>/<path>   what runs leave, as plain files
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

    @property
    def snapshots(self) -> Root:
        return Root(self.path / "snapshots")

    def hidden(self, text: str) -> str:
        """Return a message as a job may read it: where this folder lies on the machine isn't in it."""
        return text.replace(str(self.path), "(the workspace's folder)")

    def run(self, run_id: str) -> Path:
        return self.path / "runs" / one_name(run_id)

    def artifacts(self, origin: str, container: str) -> Root:
        return Root(self.path / "artifacts" / one_name(origin) / one_name(container))

    def datastore(self, name: str) -> Root:
        return Root(self.path / "datastores" / one_name(name))


def one_name(name: str) -> str:
    """Return `name` if it is a single path segment; refuse it (400) otherwise."""
    if inside(name) != name or "/" in name:
        raise Fault(400, f"{name[:80]!r} can't be used as a name.")
    return name


def inside(name: str) -> str:
    """Return the name of a file as a Root takes it; refuse (400) what would leave its folder."""
    try:
        return "/".join(parts_of(name.replace("\\", "/")))
    except UnsafeNameError as error:
        raise Fault(400, str(error)) from error
