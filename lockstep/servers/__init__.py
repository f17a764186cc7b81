"""Servers: where this machine looks for packages, from the settings that people already have."""

from lockstep.servers.loopback import is_loopback
from lockstep.servers.servers import (
    Servers,
    hide,
    read_servers,
    without_userinfo,
)

__all__ = [
    "Servers",
    "hide",
    "is_loopback",
    "read_servers",
    "without_userinfo",
]
