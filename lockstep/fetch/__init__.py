"""Fetch: packages into the machine's store, resumed, retried and verified by sha256."""

from lockstep.fetch.fetch import (
    fetch,
    fetch_url,
)

__all__ = [
    "fetch",
    "fetch_url",
]
