"""Measure: the sha256 and the size of a file whose index doesn't say them."""

from __future__ import annotations

import hashlib

from lockstep.errors import FetchError
from lockstep.servers import Servers, hide, without_userinfo


def measure(url: str, sha256: str | None, servers: Servers) -> tuple[str, int]:
    """Return (sha256, size in bytes): from the server's headers, or from every byte."""
    import httpx

    address, auth = without_userinfo(url), servers.auth(url)
    try:
        with servers.client() as client:
            if sha256:
                length = client.head(address, auth=auth).raise_for_status().headers.get("content-length", "")
                if length.isdigit():
                    return sha256, int(length)
            digest, size = hashlib.sha256(), 0
            with client.stream("GET", address, auth=auth) as response:
                response.raise_for_status()
                for chunk in response.iter_raw(1 << 20):
                    digest.update(chunk)
                    size += len(chunk)
    except httpx.HTTPError as error:
        raise FetchError(f"{hide(url)} can't be read: {hide(str(error))}.", "Try again later.") from error
    return digest.hexdigest(), size
