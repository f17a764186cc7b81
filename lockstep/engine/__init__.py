"""The container engine, one of the edges: only this package knows the docker SDK.

connect(install=…)           an Engine that answers; installed and started if need be
engine.deliver(image, …)     the image into the engine, only what is missing
engine.run(ContainerRun, …)  a container to its end; `start` for one in the background
"""

from lockstep.engine.container import Container, ContainerRun, ExitStatus, Mount
from lockstep.engine.delivery import Delivery
from lockstep.engine.dockerfile import adds_nothing, depends_on_day
from lockstep.engine.engine import Engine, EngineInfo, connect, find_engine
from lockstep.engine.network import Network
from lockstep.engine.system import System
from lockstep.engine.user import job_user, open_to_others, unreadable

__all__ = [
    "Container",
    "ContainerRun",
    "Delivery",
    "Engine",
    "EngineInfo",
    "ExitStatus",
    "Mount",
    "Network",
    "System",
    "adds_nothing",
    "connect",
    "depends_on_day",
    "find_engine",
    "job_user",
    "open_to_others",
    "unreadable",
]
