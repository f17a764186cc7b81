"""Loopback: whether a host's name means this machine itself, which no proxy can reach for us."""

from __future__ import annotations

import ipaddress
import re


def is_loopback(host: str) -> bool:
    """Tell whether a host, with or without a port, is this machine itself (RFC 6761, section 6.3; RFC 6890).

    >>> is_loopback("127.0.0.1:5000"), is_loopback("[::1]"), is_loopback("localhost.example")
    (True, True, False)
    """
    name = re.sub(r"^(\[[^]]*\]|[^:]*):\d+$", r"\1", host).strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
