"""Shapes: what of a JSON body the server reads, and of what type it must be. More may be there: it is kept or ignored.

A body that has its shape is used as it was sent. `None` stands wherever the SDK may send null.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from lockstep.workspace.fault import Fault
from lockstep.workspace.names import checked
from lockstep.workspace.runs import ACTIVE, ENDED
from lockstep.workspace.state import moment

T = TypeVar("T")


def fitting(shape: Any, value: T, what: str = "The request's body") -> T:
    """Return `value` if it has the shape (a class below, or a type); refuse it with 400, naming the first bad part."""
    try:
        TypeAdapter(shape).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"] if step != first["type"])
        where = f" at {place[:200]!a}" if place else ""
        said = re.sub(r"valid dictionary( or instance of \w+)?", "valid object", first["msg"]).replace(
            "Value error, ", ""
        )
        raise Fault(400, f"{what} has not the right shape{where}: {said}.", "BadArgument") from error
    return value


def _is_time(text: str) -> str:
    moment(text)
    return text


def _is_number(value: Any) -> Any:
    if isinstance(value, int):
        try:
            float(value)
        except OverflowError:
            raise ValueError("a whole number larger than any metric's") from None
    return value


def _is_status(text: str) -> str:
    if text not in (*ACTIVE, *ENDED):
        raise ValueError(f"a run is {', '.join((*ACTIVE, *ENDED))}")
    return text


def _of(kind: str) -> AfterValidator:
    return AfterValidator(lambda name: checked(kind, name))


RunName = Annotated[str, _of("run")]
SnapshotName = Annotated[str, _of("snapshot")]
ModelName = Annotated[str, _of("model_name")]
MetricKey = Annotated[str, _of("metric")]
FileName = Annotated[str, _of("file")]
ReferenceName = Annotated[str, _of("reference")]
Status = Annotated[str, AfterValidator(_is_status)]
Time = Annotated[str, AfterValidator(_is_time)]
Number = Annotated[Any, AfterValidator(_is_number)]
Text = str | None
Scalar = str | bool | int | float | None
Tags = dict[Annotated[str, _of("tag")], Scalar] | None
Variables = dict[Annotated[str, _of("variable")], Scalar] | None
Object = dict[str, Any] | None
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Milliseconds = Annotated[int, Field(ge=0, le=253_402_300_799_999)]  # until the year 9999
Many = Annotated[list[dict[str, Any]], Field(max_length=10_000)]
Count = Annotated[int, Field(ge=0, le=10_000)]


class Shape(BaseModel):
    """Types are taken strictly: a number isn't text, and the other way round."""

    model_config = ConfigDict(strict=True, extra="ignore")


class ExperimentPatch(Shape):
    """PATCH of an experiment."""

    tags: Tags = None
    description: Text = None
    archive: bool | None = None


class TagNames(Shape):
    """DELETE of tags, where it isn't a list."""

    tags: list[str] | None = None
    values: list[str] | None = None


class Query(Shape):
    """A query for experiments or runs."""

    filter: Text = None
    viewType: Text = None  # noqa: N815 - as the service writes it, here and below
    orderby: str | list[str] | None = None
    top: str | int | None = None
    continuationToken: str | int | None = None  # noqa: N815


class RunPatch(Shape):
    """PATCH of a run, which makes it where there is none."""

    runId: RunName | None = None  # noqa: N815
    parentRunId: RunName | Literal[""] | None = None  # noqa: N815
    status: Status | None = None
    name: Text = None
    displayName: Text = None  # noqa: N815
    description: Text = None
    target: Text = None
    scriptName: Text = None  # noqa: N815
    runType: Text = None  # noqa: N815
    hidden: bool | None = None
    tags: Tags = None
    properties: Tags = None
    inputs: Object = None
    outputs: Object = None


class RunBatch(Shape):
    """Several runs; each is judged by itself."""

    runs: Many | None = None


class EventBatch(Shape):
    """Several events; each is judged by itself."""

    events: Many | None = None


class EventData(Shape):
    """What an event says."""

    RunId: RunName | None = None
    Source: Text = None
    Message: Text = None
    ErrorResponse: Object = None
    errorResponse: Object = None  # noqa: N815


class Event(Shape):
    """Something that happened to a run."""

    name: str = ""
    data: EventData | None = None


class MetricValue(Shape):
    """One row of a metric."""

    metricId: Text = None  # noqa: N815
    createdUtc: Time | None = None  # noqa: N815
    step: Int64 | None = None
    data: dict[str, Number] | None = None


class MetricProperties(Shape):
    """What kind of metric it is."""

    uxMetricType: Text = None  # noqa: N815


class MetricEntry(Shape):
    """A metric with some of its values."""

    name: MetricKey
    columns: Object = None
    properties: MetricProperties | None = None
    value: list[MetricValue] | None = None


class MetricBatch(Shape):
    """What `run.log` and its kin send."""

    values: list[MetricEntry]


class MetricName(Shape):
    """Which metric is asked for."""

    metricName: MetricKey  # noqa: N815


class MlflowTag(Shape):
    """A tag as MLflow writes it."""

    key: str
    value: Scalar


class MlflowMetric(BaseModel):
    """A number as MLflow writes it: protocol buffers' JSON has 64-bit numbers and NaN as text."""

    run_id: Text = None
    run_uuid: Text = None
    key: MetricKey
    value: float
    timestamp: Milliseconds | None = None
    step: Int64 | None = None
    model_id: Any = None


class MlflowBatch(Shape):
    """`runs/log-batch`."""

    run_id: Text = None
    run_uuid: Text = None
    metrics: list[MlflowMetric] | None = None
    params: list[Any] | None = None
    tags: list[MlflowTag] | None = None


class MlflowExperiment(Shape):
    """`experiments/create`."""

    name: str


class ArtifactPaths(Shape):
    """Which artifacts are to be uploaded; each path is judged by itself."""

    paths: list[Any] | None = None


class FileNames(Shape):
    """Which files of a snapshot are to be uploaded."""

    FileNames: list[str] | None = None
    fileNames: list[str] | None = None  # noqa: N815


class TreeNode(Shape):
    """A file or folder of a snapshot."""

    type: Text = None
    children: dict[FileName, TreeNode] | None = None


class UploadedFile(Shape):
    """A file of a snapshot that was uploaded, and where."""

    FullName: str
    BlobUri: str


class UploadedFiles(Shape):
    """Those that were."""

    FileNodes: list[UploadedFile] | None = None


class NewSnapshot(Shape):
    """A snapshot: its whole tree, and what of it was uploaded."""

    ParentSnapshotId: SnapshotName | Literal[""] | None = None
    DirTreeNode: TreeNode
    FileRevisionList: UploadedFiles | None = None


class ScaleSettings(Shape):
    """How many nodes a compute target may have."""

    minNodeCount: int | None = None  # noqa: N815
    maxNodeCount: int | None = None  # noqa: N815


class ComputeInner(Shape):
    """A compute target's own properties."""

    vmSize: Text = None  # noqa: N815
    vmPriority: Text = None  # noqa: N815
    scaleSettings: ScaleSettings | None = None  # noqa: N815


class ComputeProperties(Shape):
    """The resource's properties."""

    properties: ComputeInner | None = None


class Compute(Shape):
    """PUT of a compute target."""

    properties: ComputeProperties | None = None


class NewModel(Shape):
    """A model to be registered."""

    name: ModelName
    kvTags: Tags = None  # noqa: N815
    properties: Tags = None
    runId: Text = None  # noqa: N815
