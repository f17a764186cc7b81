"""From a Job to the SDK's ScriptRunConfig: the one place that knows both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lockstep.azureml.values import RemoteData
from lockstep.job import Job


def configuration(
    workspace: Any,
    job: Job,
    folder: Path,
    environment: Any,
    compute: str,
    inputs: Mapping[str, RemoteData],
    data_mode: str,
) -> Any:
    """Return the ScriptRunConfig that runs `job` with `folder` as its source.

    `inputs` says where each of the job's inputs is in a datastore; `data_mode` is `mount` or `download`.
    """
    from azureml.core import ScriptRunConfig
    from azureml.core.runconfig import DockerConfiguration, PyTorchConfiguration

    references = {name: _reference(workspace, name, where, data_mode) for name, where in inputs.items()}
    distributed = None
    if job.world_size > 1:
        # process_count is the total over all nodes; the script chooses the backend, this is a label
        distributed = PyTorchConfiguration(process_count=job.world_size, node_count=job.nodes)
    made = ScriptRunConfig(
        source_directory=str(folder),
        script=job.script,
        arguments=list(job.arguments_with({name: str(reference) for name, reference in references.items()})),
        compute_target=compute,
        environment=environment,
        distributed_job_config=distributed,
        docker_runtime_config=DockerConfiguration(use_docker=True, shm_size=job.shm_size),
    )
    made.run_config.environment_variables = dict(job.variables)
    made.run_config.data_references = {name: reference.to_config() for name, reference in references.items()}
    return made


def _reference(workspace: Any, name: str, where: RemoteData, mode: str) -> Any:
    from azureml.core import Datastore
    from azureml.data.data_reference import DataReference

    store = Datastore.get(workspace, where.datastore)
    return DataReference(store, data_reference_name=name, path_on_datastore=where.path, mode=mode)
