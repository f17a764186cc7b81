"""The compute part of the resource provider."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from lockstep.workspace.call import Call, Routes
from lockstep.workspace.identity import ARM_PATH
from lockstep.workspace.shapes import Compute

routes = Routes()
COMPUTES = "/rp/workspaces{WS}/computes"


@routes.on("GET", COMPUTES, "{WS}/computes")
def listing(call: Call) -> Any:
    """List the compute targets."""
    return {"value": call.site.computes.all()}


@routes.on("GET", f"{COMPUTES}/{{compute}}", "{WS}/computes/{compute}")
def get(call: Call) -> Any:
    """Show a compute target."""
    return call.site.computes.get(call.path["compute"])


@routes.on("PUT|PATCH", f"{COMPUTES}/{{compute}}", "{WS}/computes/{compute}")
def create(call: Call) -> Any:
    """Make a compute target: a queue with as many nodes as it may have."""
    made = call.site.computes.create(call.path["compute"], call.fields(Compute))
    call.site.runner.look_again()
    return JSONResponse(made, headers=_done(call))


def _done(call: Call) -> dict[str, str]:
    """Return the header that says where to ask how an operation goes."""
    return {
        "Azure-AsyncOperation": f"{call.base}/rp/workspaces{ARM_PATH}/operations/done?api-version=2020-02-02"
    }


@routes.on("GET", "/rp/workspaces{WS}/operations/done")
def operation(call: Call) -> Any:
    """Say that the operation has ended: here they end before they are answered."""
    return {"status": "Succeeded"}


@routes.on("DELETE", f"{COMPUTES}/{{compute}}", "{WS}/computes/{compute}")
def delete(call: Call) -> Any:
    """Remove a compute target."""
    call.site.computes.delete(call.path["compute"])
    call.site.runner.look_again()
    return JSONResponse({}, headers=_done(call))
