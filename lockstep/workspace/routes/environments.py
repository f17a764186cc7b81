"""The environment service."""

from __future__ import annotations

from typing import Any

from lockstep.workspace.call import Call, Routes
from lockstep.workspace.fault import missing

routes = Routes()
ALL_OF_THEM = "/environment/v1.0{WS}/environments"
ONE = ALL_OF_THEM + "/{environment}"


@routes.on("PUT", ONE, f"{ONE}/versions/{{version}}")
def register(call: Call) -> Any:
    """Keep a definition; an identical one that is there already is returned, with its version."""
    return call.site.environments.register(call.path["environment"], call.fields(), call.path.get("version"))


@routes.on("GET", ONE, f"{ONE}/versions/{{version}}")
def get(call: Call) -> Any:
    """Show a version, or the latest."""
    return call.site.environments.get(call.path["environment"], call.path.get("version"))


@routes.on("GET", f"{ONE}/labels/{{label}}")
def labelled(call: Call) -> Any:
    """Show the version with a label; `latest` is the only one."""
    if call.path["label"].lower() != "latest":
        raise missing(f"The label {call.path['label']!r}")
    return call.site.environments.get(call.path["environment"])


@routes.on("GET", f"{ONE}/versions", f"{ONE}/versions/")
def versions(call: Call) -> Any:
    """List an environment's versions."""
    return {"value": call.site.environments.versions(call.path["environment"]), "continuationToken": None}


@routes.on("GET", ALL_OF_THEM, f"{ALL_OF_THEM}/")
def listing(call: Call) -> Any:
    """List the latest version of each environment."""
    return {"value": call.site.environments.latest(), "continuationToken": None}
