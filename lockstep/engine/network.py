"""A private network for the containers of one run, so that several nodes find one another by name."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lockstep.engine.failures import engine_errors
from lockstep.engine.owner import LABEL, this_process
from lockstep.errors import LockstepError


@dataclass(frozen=True)
class Network:
    """A network: containers name it in `ContainerRun.network`; `gateway` is this machine's address in it."""

    name: str
    gateway: str


@contextlib.contextmanager
def private_network(api: Any) -> Iterator[Network]:
    """Make a network without a way out, and remove it at the end, with what is still on it."""
    name = f"lockstep-{uuid.uuid4().hex[:12]}"
    try:
        with engine_errors("making a network"):
            api.create_network(name, driver="bridge", internal=True, labels={LABEL: this_process()})
        yield Network(name, gateway_of(api, name))
    finally:
        remove_network(api, name)


def gateway_of(api: Any, name: str) -> str:
    """Return the address that this machine has in a network; the engine's own bridge is called `bridge`."""
    with engine_errors("looking at a network"):
        configs = api.inspect_network(name).get("IPAM", {}).get("Config") or [{}]
        return str(configs[0].get("Gateway", "")).partition("/")[0]


def remove_network(api: Any, name: str) -> None:
    """Take every container off a network and remove it; one that is gone is as good."""
    with contextlib.suppress(LockstepError), engine_errors("removing a network"):
        for container in api.inspect_network(name).get("Containers") or {}:
            api.disconnect_container_from_network(container, name, force=True)
        api.remove_network(name)
