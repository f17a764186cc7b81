"""The shape of a submitted run: its definition, with its environment, containers and data."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from lockstep.workspace.shapes import (
    Count,
    Object,
    ReferenceName,
    RunName,
    Shape,
    SnapshotName,
    Tags,
    Text,
    Variables,
)


class PythonSection(Shape):
    """An environment's Python: that of its image, or the one that a conda spec makes."""

    interpreterPath: Text = None  # noqa: N815 - as the service writes it, here and below
    condaDependencies: Object = None  # noqa: N815


class DockerSection(Shape):
    """What a container gets; a run's own goes over its environment's."""

    baseImage: Text = None  # noqa: N815
    baseDockerfile: Text = None  # noqa: N815
    shmSize: Text = None  # noqa: N815
    arguments: list[str] | None = None


class Environment(Shape):
    """An environment's definition, its fields as Azure spells them."""

    name: Text = None
    version: Text = None
    python: PythonSection | None = None
    docker: DockerSection | None = None
    environmentVariables: Variables = None  # noqa: N815


class PyTorch(Shape):
    """A distributed run's processes (over all nodes) and nodes."""

    processCount: Count | None = None  # noqa: N815
    nodeCount: Count | None = None  # noqa: N815


class DataReference(Shape):
    """A folder or file of a datastore."""

    mode: Text = None
    dataStoreName: Text = None  # noqa: N815
    pathOnDataStore: Text = None  # noqa: N815


class Definition(Shape):
    """What `ScriptRunConfig` becomes."""

    script: Text = None
    command: Text = None
    arguments: list[Any] | None = None
    target: Text = None
    framework: Text = None
    communicator: Text = None
    nodeCount: Count | None = None  # noqa: N815
    maxRunDurationSeconds: Annotated[float, Field(ge=0, le=10**9)] | None = None  # noqa: N815
    pytorch: PyTorch | None = None
    environment: Environment | None = None
    environmentVariables: Variables = None  # noqa: N815
    docker: DockerSection | None = None
    dataReferences: dict[ReferenceName, DataReference] | None = None  # noqa: N815
    tags: Tags = None


class Submission(Shape):
    """A run to be taken: `Configuration` and `SnapshotId`, whose first letter the SDK writes either way."""

    SnapshotId: SnapshotName | None = None
    snapshotId: SnapshotName | None = None  # noqa: N815
    ParentRunId: RunName | Literal[""] | None = None
    Configuration: Definition | None = None
    configuration: Definition | None = None
