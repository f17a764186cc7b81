"""The metric service: what `run.log` sends and `run.get_metrics` reads."""

from __future__ import annotations

from typing import Any

from lockstep.workspace.call import Call, Routes
from lockstep.workspace.runs import container_of
from lockstep.workspace.shapes import MetricBatch, MetricName

routes = Routes()
RUN = "/metric/v2.0{WS}/runs/{run}"


@routes.on("POST", f"{RUN}/batch")
def append(call: Call) -> Any:
    """Append a batch of values; they can be read when this is answered."""
    values = call.fields(MetricBatch)["values"]
    call.site.runs.get(call.path["run"])
    call.site.metrics.add_batch(call.path["run"], values)
    return {"errors": []}


@routes.on("POST", f"{RUN}/list")
def names(call: Call) -> Any:
    """List a run's metrics."""
    call.site.runs.get(call.path["run"])
    return {"value": call.site.metrics.names(call.path["run"]), "continuationToken": None}


@routes.on("POST", f"{RUN}/full")
def full(call: Call) -> Any:
    """Show one metric with all its values."""
    name = call.fields(MetricName)["metricName"]
    return call.site.metrics.full(call.path["run"], name, container_of(call.path["run"]))
