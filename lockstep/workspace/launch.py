"""Launch: from what a client submitted to the containers to start. No engine here, only values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lockstep.engine import ContainerRun, Mount
from lockstep.no_proxy import no_proxy
from lockstep.workspace.docker_arguments import DockerArguments, bytes_of, read_docker_arguments
from lockstep.workspace.fault import Fault
from lockstep.workspace.identity import ARM_PATH, CLOUD, NAME, RESOURCE_GROUP, SUBSCRIPTION

ROOT = "/mnt/azureml"
WORK = f"{ROOT}/wd"
SOCKET = f"{ROOT}/workspace.sock"
MASTER_PORT = "6105"
COLLECTED = ("outputs", "logs")
LAUNCHER = Path(__file__).with_name("launcher.py")
FORWARDER = Path(__file__).with_name("forwarder.py")
BUNDLE = "ca-bundle.pem"


@dataclass(frozen=True)
class Way:
    """How containers reach the workspace: at `address`, a `host:port` that their network leads to.

    With `socket` it doesn't: the address is their own loopback, from where a forwarder leads to that Unix socket.
    """

    address: str
    socket: Path | None = None


@dataclass(frozen=True)
class Place:
    """What one node gets from its surroundings: files of this machine, the network, who runs it, the way to us.

    `programs` holds copies of LAUNCHER, FORWARDER and the authorities' BUNDLE that the job's user can read;
    `image_variables` are those that the image gives its containers anyway.
    """

    work: Path
    home: Path
    collected: Path
    programs: Path
    inputs: tuple[tuple[str, Path, bool], ...]
    user: str
    network: str
    way: Way
    token: str
    discovery: str
    image_variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Names:
    """The names by which a job finds its run again."""

    run: str
    experiment: str
    experiment_id: str
    workspace_id: str


def check_definition(definition: dict[str, Any]) -> None:
    """Refuse (400) what can't be run here, before the run exists."""
    if not definition.get("script") and not definition.get("command"):
        raise Fault(400, "The run has neither a script nor a command.")
    if definition.get("data") or definition.get("outputData"):
        raise Fault(
            400,
            "The embedded workspace has no Datasets. Give the run a DataReference of the default datastore.",
        )
    communicator = str(definition.get("communicator") or "None").lower()
    if communicator not in ("none", "nccl", "gloo"):
        raise Fault(
            400, f"The embedded workspace runs torch.distributed jobs (nccl, gloo), not {communicator!r}."
        )
    _shm_bytes(definition)
    processes_per_node(definition)


def nodes_of(definition: Mapping[str, Any]) -> int:
    """Return how many nodes a run asks for."""
    count = (definition.get("pytorch") or {}).get("nodeCount") if _is_distributed(definition) else None
    return max(int(count or definition.get("nodeCount") or 1), 1)


def processes_per_node(definition: Mapping[str, Any]) -> int:
    """Return how many processes run on each node. Azure's `processCount` counts all nodes' together."""
    nodes = nodes_of(definition)
    total = int(
        ((definition.get("pytorch") or {}).get("processCount") if _is_distributed(definition) else None)
        or nodes
    )
    if total % nodes:
        raise Fault(400, f"{total} processes can't be shared evenly by {nodes} nodes.")
    return total // nodes


def _is_distributed(definition: Mapping[str, Any]) -> bool:
    return str(definition.get("framework") or "").lower() == "pytorch"


def _docker(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Return the docker section: the run's own over its environment's."""
    of_environment = {
        key: value
        for key, value in ((definition.get("environment") or {}).get("docker") or {}).items()
        if value
    }
    of_run = {key: value for key, value in (definition.get("docker") or {}).items() if value}
    return {**of_environment, **of_run}


def _shm_bytes(definition: Mapping[str, Any]) -> int:
    """Return the shared memory in bytes: as the docker arguments say, else as the docker section does."""
    docker = _docker(definition)
    stated = bytes_of(str(docker.get("shmSize") or "2g"))
    return read_docker_arguments(docker.get("arguments")).shm_size or stated


def is_tagged(definition: Mapping[str, Any]) -> bool:
    """Tell whether the output's lines begin with a rank: a script that runs in several processes."""
    return (
        _is_distributed(definition) and not definition.get("command") and processes_per_node(definition) > 1
    )


def node_container(
    definition: dict[str, Any], image: str, node: int, names: Names, place: Place
) -> ContainerRun:
    """Return the container of one node of a run."""
    docker = _docker(definition)
    arguments: DockerArguments = read_docker_arguments(docker.get("arguments"))
    variables = {
        **((definition.get("environment") or {}).get("environmentVariables") or {}),
        **(definition.get("environmentVariables") or {}),
        **dict(arguments.environment),
    }
    given = {name: str(value) for name, value in variables.items()}
    environment = {
        **given,
        **no_proxy({**place.image_variables, **given}, place.way.address.rpartition(":")[0]),
        **_job_variables(names, place),
        **_distributed_variables(definition, node),
        **{f"AZUREML_DATAREFERENCE_{name}": _input_path(name, source) for name, source, _ in place.inputs},
    }
    mounts = [
        Mount(place.work, WORK),
        Mount(place.home, f"{ROOT}/home"),
        *(Mount(place.collected / name, f"{WORK}/{name}") for name in COLLECTED),
        Mount(place.programs / LAUNCHER.name, f"{ROOT}/launch.py", read_only=True),
        Mount(place.programs / BUNDLE, f"{ROOT}/{BUNDLE}", read_only=True),
        *(Mount(source, _input_path(name, source), read_only=fixed) for name, source, fixed in place.inputs),
    ]
    command = _command(definition, node)
    if place.way.socket is not None:
        forwarder = Mount(place.programs / FORWARDER.name, f"{ROOT}/forward.py", read_only=True)
        mounts += [forwarder, Mount(place.way.socket, SOCKET)]
        port = place.way.address.rpartition(":")[2]
        command = (_python(definition), f"{ROOT}/forward.py", port, SOCKET, *command)
    return ContainerRun(
        image=image,
        command=command,
        environment=environment,
        mounts=tuple(mounts),
        user=place.user,
        working_dir=WORK,
        shm_size=_shm_bytes(definition),
        gpus=True,
        network=place.network,
        hostname=f"node-{node}",
        read_only_root=False,
        tmpfs=(),
    )


def _command(definition: dict[str, Any], node: int) -> tuple[str, ...]:
    """Return what the container runs: the launcher with the script, or the command once."""
    if definition.get("command"):
        return ("/bin/sh", "-c", str(definition["command"]))
    per_node, distributed = processes_per_node(definition), _is_distributed(definition)
    processes = [
        {"RANK": str(node * per_node + local), "LOCAL_RANK": str(local)} if distributed else {}
        for local in range(per_node)
    ]
    argv = [str(definition["script"]), *(_argument(one) for one in definition.get("arguments") or [])]
    job = {"argv": argv, "processes": processes, "tagged": is_tagged(definition)}
    return (_python(definition), f"{ROOT}/launch.py", json.dumps(job))


def _python(definition: dict[str, Any]) -> str:
    """Return the image's Python, as its environment names it."""
    return ((definition.get("environment") or {}).get("python") or {}).get("interpreterPath") or "python"


def _argument(value: Any) -> str:
    """Return an argument as Azure passes it on: numbers as they are written, truth as `True`."""
    return (
        value
        if isinstance(value, str)
        else json.dumps(value)
        if isinstance(value, list | dict)
        else str(value)
    )


def _input_path(name: str, source: Path) -> str:
    """Return where a data reference is seen in the container; a single file keeps its name."""
    return f"{ROOT}/inputs/{name}" + (f"/{source.name}" if source.is_file() else "")


def _distributed_variables(definition: dict[str, Any], node: int) -> dict[str, str]:
    """Return what Azure sets on each node for torch.distributed."""
    if not _is_distributed(definition):
        return {}
    nodes = nodes_of(definition)
    return {
        "MASTER_ADDR": "node-0" if nodes > 1 else "127.0.0.1",
        "MASTER_PORT": MASTER_PORT,
        "WORLD_SIZE": str(nodes * processes_per_node(definition)),
        "NODE_RANK": str(node),
        "AZUREML_NODE_COUNT": str(nodes),
    }


def _job_variables(names: Names, place: Place) -> dict[str, str]:
    """Return the variables by which the SDK and MLflow in the job find this run."""
    bundle = f"{ROOT}/{BUNDLE}"
    return {
        "AZUREML_RUN_ID": names.run,
        "AZUREML_ROOT_RUN_ID": names.run,
        "AZUREML_ARM_SUBSCRIPTION": SUBSCRIPTION,
        "AZUREML_ARM_RESOURCEGROUP": RESOURCE_GROUP,
        "AZUREML_ARM_WORKSPACE_NAME": NAME,
        "AZUREML_ARM_PROJECT_NAME": names.experiment,
        "AZUREML_EXPERIMENT_ID": names.experiment_id,
        "AZUREML_EXPERIMENT_SCOPE": f"{ARM_PATH}/experiments/{names.experiment}",
        "AZUREML_WORKSPACE_ID": names.workspace_id,
        "AZUREML_WORKSPACE_SCOPE": ARM_PATH,
        "AZUREML_RUN_TOKEN": place.token,
        "AZUREML_SERVICE_ENDPOINT": f"https://{place.way.address}",
        "AZUREML_DISCOVERY_SERVICE_ENDPOINT": f"https://{place.way.address}/discovery/{place.discovery}",
        "AZUREML_CURRENT_CLOUD": CLOUD,
        "ARM_CLOUD_METADATA_URL": f"https://{place.way.address}/metadata/endpoints?api-version=2019-05-01",
        "AZ_BATCHAI_CLUSTER_NAME": "local",
        "AZUREML_CR_EXECUTION_WORKING_DIR_PATH": WORK,
        "MLFLOW_TRACKING_URI": f"azureml://{place.way.address}/mlflow/v1.0{ARM_PATH}",
        "MLFLOW_TRACKING_TOKEN": place.token,
        "MLFLOW_RUN_ID": names.run,
        "MLFLOW_EXPERIMENT_ID": names.experiment_id,
        "MLFLOW_EXPERIMENT_NAME": names.experiment,
        "REQUESTS_CA_BUNDLE": bundle,
        "SSL_CERT_FILE": bundle,
        "CURL_CA_BUNDLE": bundle,
        "HOME": f"{ROOT}/home",
        "PYTHONUNBUFFERED": "1",
    }
