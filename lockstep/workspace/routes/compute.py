"""The compute part of the resource provider."""

from __future__ import annotations

from typing import Any

from lockstep.workspace.call import Call, Routes

routes = Routes()
COMPUTES = "/rp/workspaces{WS}/computes"


@routes.on("GET", COMPUTES, "{WS}/computes")
def listing(call: Call) -> Any:
    """List the compute targets."""
    return {"value": call.site.computes.all()}


@routes.on("GET", f"{COMPUTES}/{{name}}", "{WS}/computes/{name}")
def get(call: Call) -> Any:
    """Show a compute target."""
    return call.site.computes.get(call.path["name"])


@routes.on("PUT|PATCH", f"{COMPUTES}/{{name}}", "{WS}/computes/{name}")
def create(call: Call) -> Any:
    """Make a compute target: a queue with as many nodes as it may have."""
    return call.site.computes.create(call.path["name"], call.fields)


@routes.on("DELETE", f"{COMPUTES}/{{name}}", "{WS}/computes/{name}")
def delete(call: Call) -> Any:
    """Remove a compute target."""
    call.site.computes.delete(call.path["name"])
