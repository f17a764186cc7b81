"""The road of each request: through which proxy, and whether its server's certificate is verified."""

from __future__ import annotations

import ssl
import threading
from urllib.parse import urlsplit

import httpx

from lockstep.servers.proxies import Proxies


class Routed(httpx.BaseTransport):
    """Sends each request by its proxy or straight; hosts in `trusted` (`host` or `host:port`) aren't verified."""

    def __init__(self, proxies: Proxies, context: ssl.SSLContext, trusted: tuple[str, ...] = ()) -> None:
        self._proxies = proxies
        self._context = context
        self._trusted = frozenset(trusted)
        self._lock = threading.Lock()
        self._made: dict[tuple[str | None, bool], httpx.HTTPTransport] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = str(request.url)
        proxy = self._proxies.of(url)
        parts = urlsplit(url)
        host = parts.hostname or ""
        trusted = bool({host, f"{host}:{parts.port or ''}"} & self._trusted)
        with self._lock:
            if (proxy, trusted) not in self._made:
                self._made[proxy, trusted] = self._make(proxy, trusted)
            road = self._made[proxy, trusted]
        return road.handle_request(request)

    def _make(self, proxy: str | None, trusted: bool) -> httpx.HTTPTransport:
        through = None
        if proxy:
            secure = proxy.startswith("https://")
            through = httpx.Proxy(proxy, ssl_context=self._context if secure else None)
        return httpx.HTTPTransport(verify=False if trusted else self._context, proxy=through, trust_env=False)

    def close(self) -> None:
        for road in self._made.values():
            road.close()
