"""Proxies: the one reading of them, for our own requests, child processes and the steps of a Dockerfile.

For each scheme the first that names one wins: the variables (`https_proxy` before `HTTPS_PROXY`, then
`ALL_PROXY`), pip's `proxy`, conda's `proxy_servers`. `NO_PROXY` counts for all, and this machine itself is
never asked through a proxy.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from lockstep.errors import SettingsError
from lockstep.no_proxy import exceptions, no_proxy
from lockstep.redaction import redact, remember_url
from lockstep.servers.loopback import is_loopback

_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
DIRECT = ""
"""In `Proxies.hosts`: this host is asked without a proxy."""


@dataclass(frozen=True)
class Proxies:
    """The proxy of each scheme ("" is none), the hosts asked without one, and those with one of their own.

    URLs may hold credentials; this value never leaves the machine. `exceptions` are NO_PROXY's entries: a
    domain with all below it, an address, a network (10.0.0.0/8), one of these with a port, or `*`. `hosts`
    maps `scheme://host` to a proxy.
    """

    http: str = field(default="", repr=False)
    https: str = field(default="", repr=False)
    exceptions: tuple[str, ...] = ()
    hosts: Mapping[str, str] = field(default_factory=dict, repr=False)

    def of(self, url: str) -> str | None:
        """Return the URL of the proxy that a request for `url` goes through, None if it goes straight."""
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
        if is_loopback(host) or any(_covers(entry, host, port) for entry in self.exceptions):
            return None
        for key in (f"{parts.scheme}://{host}", f"all://{host}"):
            if key in self.hosts:
                return self.hosts[key] or None
        return {"http": self.http, "https": self.https}.get(parts.scheme) or None

    def variables(self) -> dict[str, str]:
        """Return the variables that tell a child process of these proxies, in small letters and capitals.

        Programs read one or the other: apt only small ones, others only capitals.
        """
        found = {"http_proxy": self.http, "https_proxy": self.https}
        proxies = {name: value for key, value in found.items() if value for name in (key, key.upper())}
        if not proxies and not self.exceptions:
            return {}
        return {**proxies, **no_proxy({"no_proxy": ",".join(self.exceptions)})}

    def environment(self) -> dict[str, str]:
        """Return this process's environment for a child, with these proxies and no others."""
        kept = {key: value for key, value in os.environ.items() if key.lower() not in _VARIABLES}
        return {**kept, **self.variables()}


def read_proxies(pip: str | None = None, conda: Mapping[str, str] | None = None) -> Proxies:
    """Return what the variables say, then pip's setting, then conda's. Raises SettingsError for no proxy's URL."""
    conda = {str(key).lower(): value for key, value in (conda or {}).items()}
    everything = _variable("all_proxy")
    http, https = (
        _url(_variable(f"{scheme}_proxy") or everything or pip or conda.get(scheme) or conda.get("all") or "")
        for scheme in ("http", "https")
    )
    hosts = {key.rstrip("/"): _url(value) for key, value in conda.items() if "://" in key}
    return Proxies(http, https, tuple(entry.lower() for entry in exceptions(os.environ)), hosts)


def _variable(name: str) -> str:
    return (os.environ.get(name) or os.environ.get(name.upper()) or "").strip()


def _url(text: str) -> str:
    """Return a proxy's URL with its scheme, which people leave out."""
    if not text:
        return ""
    url = text if "://" in text else f"http://{text}"
    remember_url(url)
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        right = False
    if not right:
        raise SettingsError(
            f"A proxy setting isn't the URL of an HTTP proxy: {redact(url)}",
            "Write it like `http://proxy.example:3128` (HTTPS_PROXY, pip.conf, .condarc); SOCKS isn't supported. "
            "Special characters of a password are percent-encoded: `/` is %2F, `@` is %40.",
        )
    return url


def _covers(entry: str, host: str, port: int) -> bool:
    """Tell whether an entry of NO_PROXY means a host."""
    if entry == "*":
        return True
    name, colon, wanted = entry.rpartition(":")
    if colon and wanted.isdigit() and (name.count(":") == 0 or name.endswith("]")):
        if int(wanted) != port:
            return False
    else:
        name = entry
    name = name.strip("[]")
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False)
    except ValueError:
        domain = name.removeprefix("*").lstrip(".")
        return bool(domain) and (host == domain or host.endswith(f".{domain}"))
