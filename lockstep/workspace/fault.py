"""Fault: a refusal in the form that Azure ML's clients can print."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from typing import Any

from lockstep.errors import DiskFullError

FULL = (errno.ENOSPC, errno.EDQUOT)


class Fault(Exception):  # noqa: N818 - an answer to a client, not an error of ours
    """An HTTP answer that says no: a status, Azure's error code and words for a person.

    Never 408, 429 or 5xx: the SDK would try again for minutes.
    """

    def __init__(self, status: int, message: str, code: str = "UserError") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


def fault_of(error: BaseException) -> Fault:
    """Return what to answer to a client when `error` ended its request: 400 for what the server itself can't do."""
    if isinstance(error, Fault):
        return error
    if is_disk_full(error):
        return Fault(400, "The disk that holds the workspace's state is full: free some space.", "DiskFull")
    return Fault(
        400, f"The embedded workspace failed ({type(error).__name__}); its log says more.", "ServiceError"
    )


def is_disk_full(error: BaseException) -> bool:
    """Tell whether a full disk is behind an error: the system's own, SQLite's, or ours in words."""
    return any(
        isinstance(one, DiskFullError)
        or (isinstance(one, OSError) and one.errno in FULL)
        or (isinstance(one, sqlite3.OperationalError) and "disk is full" in str(one))
        for one in _with_causes(error)
    )


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def error_body(message: str, code: str = "UserError") -> dict[str, Any]:
    """Return the error document; without `details` the SDK's own exception can't be printed."""
    return {"error": {"code": code, "message": message, "details": []}}


def missing(what: str) -> Fault:
    """Return the 404 that says that `what` isn't in this workspace."""
    return Fault(404, f"{what} is not in this workspace.", "NotFound")
