"""From a Job to the SDK's ScriptRunConfig: the one place that knows both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lockstep.azureml.environments import unregistered
from lockstep.azureml.failures import azureml_errors
from lockstep.azureml.values import Choice, RemoteData
from lockstep.runs.job import Job


def configuration(
    job: Job, folder: Path, environment: Any, compute: str, inputs: Mapping[str, RemoteData], data_mode: str
) -> Any:
    """Return the ScriptRunConfig that runs `job` with `folder` as its source. Asks no server.

    `inputs` says where each of the job's inputs is in a datastore; `data_mode` is `mount` or `download`.
    """
    from azureml.core import ScriptRunConfig
    from azureml.core.runconfig import DataReferenceConfiguration, DockerConfiguration, PyTorchConfiguration

    distributed = None
    if job.world_size > 1:
        # process_count is the total over all nodes; the script chooses the backend, this is a label
        distributed = PyTorchConfiguration(process_count=job.world_size, node_count=job.nodes)
    made = ScriptRunConfig(
        source_directory=str(folder),
        script=job.script,
        # the service puts the folder's path where the variable's name is, as for the SDK's own DataReference
        arguments=list(job.arguments_with({name: f"$AZUREML_DATAREFERENCE_{name}" for name in inputs})),
        compute_target=compute,
        environment=environment,
        distributed_job_config=distributed,
        docker_runtime_config=DockerConfiguration(use_docker=True, shm_size=job.shm_size),
    )
    made.run_config.environment_variables = dict(job.variables)
    made.run_config.data_references = {
        name: DataReferenceConfiguration(where.datastore, data_mode, where.path)
        for name, where in inputs.items()
    }
    return made


def describe(
    job: Job, name: str, choice: Choice, compute: str, inputs: Mapping[str, RemoteData], data_mode: str
) -> dict[str, Any]:
    """Return what `submit` would send to start the job, in the service's own words. Sends nothing."""
    with azureml_errors("describing the run"):
        from azureml._execution._commands import _serialize_run_config_to_dict

        made = configuration(job, Path(), unregistered(name, choice), compute, inputs, data_mode)
        told: dict[str, Any] = json.loads(
            json.dumps(_serialize_run_config_to_dict(made.run_config), default=str)
        )
        return {**told, "script": made.script, "arguments": made.arguments}
