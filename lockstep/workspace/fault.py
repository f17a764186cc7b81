"""Fault: a refusal in the form that Azure ML's clients can print."""

from __future__ import annotations

from typing import Any


class Fault(Exception):  # noqa: N818 - an answer to a client, not an error of ours
    """An HTTP answer that says no: a status, Azure's error code and words for a person.

    Never 408, 429 or 5xx: the SDK would try again for minutes.
    """

    def __init__(self, status: int, message: str, code: str = "UserError") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


def error_body(message: str, code: str = "UserError") -> dict[str, Any]:
    """Return the error document; without `details` the SDK's own exception can't be printed."""
    return {"error": {"code": code, "message": message, "details": []}}


def missing(what: str) -> Fault:
    """Return the 404 that says that `what` isn't in this workspace."""
    return Fault(404, f"{what} is not in this workspace.", "NotFound")
