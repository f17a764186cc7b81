"""Body: a request's bytes become values that every part of the server can hold, store and write again."""

from __future__ import annotations

import json
from typing import Any

from lockstep.workspace.fault import Fault

DEPTH_LIMIT = 200
"""A folder of a snapshot's tree takes two levels. Python's own limit for writing and reading JSON is near 1,000."""


def parsed(data: bytes | bytearray) -> Any:
    """Return the JSON value that `data` is; refuse with 400 what isn't JSON, is nested too deep or isn't text."""
    try:
        value = json.loads(data)
    except RecursionError:
        raise too_deep() from None
    except ValueError as error:
        raise Fault(400, f"The request's body isn't JSON: {error}.", "BadArgument") from error
    _check(value)
    return value


def _check(value: Any) -> None:
    """Refuse a value that is nested too deep, or in which half of a surrogate pair stands for a character."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEPTH_LIMIT:
            raise too_deep()
        deeper: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                deeper += one.keys()
                deeper += one.values()
            elif isinstance(one, list):
                deeper += one
            elif isinstance(one, str) and not one.isascii():
                _check_text(one)
        level = deeper


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Fault(
            400, f"The request's body holds half a character: {text[error.start]!a}.", "BadArgument"
        ) from error


def too_deep() -> Fault:
    """Return the refusal of lists and objects in each other without end."""
    return Fault(400, f"The request's body is nested more than {DEPTH_LIMIT} deep.", "BadArgument")
