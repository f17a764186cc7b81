"""Servers: where this machine looks for packages, from the settings that people already have."""

from lockstep.servers.servers import (
    PROXY_VARIABLES,
    Servers,
    hide,
    read_servers,
    without_userinfo,
)

__all__ = [
    "PROXY_VARIABLES",
    "Servers",
    "hide",
    "read_servers",
    "without_userinfo",
]
