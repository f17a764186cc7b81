"""Site: everything that the routes of one workspace share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lockstep.workspace.computes import Computes
from lockstep.workspace.environments import Environments
from lockstep.workspace.experiments import Experiments
from lockstep.workspace.folder import Folder
from lockstep.workspace.identity import Identity
from lockstep.workspace.metrics import Metrics
from lockstep.workspace.runs import Runs
from lockstep.workspace.snapshots import Snapshots
from lockstep.workspace.state import State

if TYPE_CHECKING:
    from lockstep.workspace.mlflow_bridge import Bridge
    from lockstep.workspace.mlflow_server import MLflowServer
    from lockstep.workspace.runner import Runner


@dataclass
class Site:
    """One workspace: its stores, the runner and MLflow. `hosts` are the Host headers that it answers to.

    `portal` is the address of MLflow's pages, `studio` the same with the secret that lets its owner in.
    """

    folder: Folder
    identity: Identity
    state: State
    experiments: Experiments
    runs: Runs
    metrics: Metrics
    snapshots: Snapshots
    environments: Environments
    computes: Computes
    mlflow: MLflowServer
    bridge: Bridge
    runner: Runner
    portal: str = ""
    studio: str = ""
    hosts: set[str] = field(default_factory=set)
