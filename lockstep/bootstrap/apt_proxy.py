"""The proxies of this machine's apt: they count for the archives that it names, also where we fetch ourselves.

Source: apt.conf(5), apt-transport-http(1): `Acquire::http::Proxy`, the same with `::<host>`, `DIRECT`, and
`Proxy-Auto-Detect`, a program that prints the proxy of a URL. What is for http counts for https too unless that
has its own.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from lockstep.redaction import remember_url
from lockstep.servers.proxies import DIRECT, Proxies

_LINE = re.compile(
    r'^Acquire::(https?)::(Proxy(?:-?Auto-?Detect)?)(?:::(\S+))? "(.*)";$', re.IGNORECASE | re.MULTILINE
)


def proxies_of_apt(proxies: Proxies, uris: Iterable[str]) -> Proxies:
    """Return `proxies` with those that apt has for the hosts of some archives, which win there."""
    if not shutil.which("apt-config"):
        return proxies
    found = _configured()
    hosts = {}
    for uri in uris:
        parts = urlsplit(uri)
        if parts.scheme in ("http", "https") and (proxy := _proxy(found, uri)) is not None:
            hosts[f"{parts.scheme}://{(parts.hostname or '').lower()}"] = proxy
    return replace(proxies, hosts={**proxies.hosts, **hosts})


def _configured() -> Mapping[tuple[str, str, str], str]:
    """Return apt's settings by scheme, kind (`proxy` or `proxyautodetect`) and host ("" is every host)."""
    done = subprocess.run(
        ["apt-config", "dump"], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    return {
        (scheme.lower(), kind.lower().replace("-", ""), host.lower()): value
        for scheme, kind, host, value in _LINE.findall(done.stdout)
        if value
    }


def _proxy(found: Mapping[tuple[str, str, str], str], uri: str) -> str | None:
    """Return apt's proxy for a URI, DIRECT for none, and None where apt says nothing."""
    parts = urlsplit(uri)
    host = (parts.hostname or "").lower()
    for scheme in dict.fromkeys((parts.scheme, "http")):
        value = found.get((scheme, "proxy", host))
        if value is None and (program := found.get((scheme, "proxyautodetect", ""))):
            done = subprocess.run(
                [program, uri], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
            )
            value = done.stdout.strip() or None
        value = value or found.get((scheme, "proxy", ""))
        if value:
            remember_url(value)
            return DIRECT if value.upper() == "DIRECT" else value
    return None
