"""Azure ML, one of the edges: only this package knows azureml-core, and imports it inside its functions.

find_target(root, settings, flag)   which workspace; None is the embedded one
connect(target)                     sign in, and a Workspace
Workspace                           register, submit, state, cancel, metrics, download, upload
follow(state, …)                    a run's output as it comes, until its end
"""

from lockstep.azureml.connection import connect, point_sdk_at
from lockstep.azureml.environments import environment_name
from lockstep.azureml.follow import follow
from lockstep.azureml.job import describe
from lockstep.azureml.target import find_config, find_target
from lockstep.azureml.values import (
    BuiltRemotely,
    Choice,
    Curated,
    EnvironmentVersion,
    Metrics,
    OwnImage,
    RemoteData,
    RunState,
    SubmittedRun,
    Target,
    read_curated,
)
from lockstep.azureml.workspace import Workspace

__all__ = [
    "BuiltRemotely",
    "Choice",
    "Curated",
    "EnvironmentVersion",
    "Metrics",
    "OwnImage",
    "RemoteData",
    "RunState",
    "SubmittedRun",
    "Target",
    "Workspace",
    "connect",
    "describe",
    "environment_name",
    "find_config",
    "find_target",
    "follow",
    "point_sdk_at",
    "read_curated",
]
