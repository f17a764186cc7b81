"""The filters of run and experiment queries: the small part of OData that the SDK writes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from lockstep.workspace.fault import Fault

TOKEN = re.compile(r"""\s*(\(|\)|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s()]+)""")
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda have, want: have == want,
    "ne": lambda have, want: have != want,
    "gt": lambda have, want: have is not None and want is not None and have > want,
    "ge": lambda have, want: have is not None and want is not None and have >= want,
    "lt": lambda have, want: have is not None and want is not None and have < want,
    "le": lambda have, want: have is not None and want is not None and have <= want,
}
Test = Callable[[dict[str, Any]], bool]


def parse_filter(text: str | None) -> Test:
    """Return the test that a filter such as `(Status eq Failed) and (Tags/a eq "b")` describes.

    Names are looked up in the document whatever their case; `/` steps into maps. A value may hold spaces
    without quotes, as the SDK sends them. What can't be read is refused with 400.
    """
    tokens = TOKEN.findall(text or "")
    if not tokens:
        return lambda _: True
    parser = _Parser(tokens)
    test = parser.either()
    if parser.rest:
        raise Fault(400, f"The filter {text!r} can't be read at {parser.rest[0]!r}.", "BadArgument")
    return test


class _Parser:
    def __init__(self, tokens: list[str]) -> None:
        self.rest = tokens

    def _take(self, *wanted: str) -> bool:
        if self.rest and self.rest[0].lower() in wanted:
            self.rest = self.rest[1:]
            return True
        return False

    def either(self) -> Test:
        left = self.both()
        while self._take("or"):
            left = _either(left, self.both())
        return left

    def both(self) -> Test:
        left = self.one()
        while self._take("and"):
            left = _both(left, self.one())
        return left

    def one(self) -> Test:
        if self._take("("):
            inner = self.either()
            if not self._take(")"):
                raise Fault(400, "A parenthesis is open in the filter.", "BadArgument")
            return inner
        if len(self.rest) < 3 or self.rest[1].lower() not in COMPARE:
            raise Fault(400, f"The filter can't be read at {' '.join(self.rest[:3])!r}.", "BadArgument")
        name, compare = self.rest[0], COMPARE[self.rest[1].lower()]
        words, self.rest = [self.rest[2]], self.rest[3:]
        while self.rest and self.rest[0] not in "()" and self.rest[0].lower() not in ("and", "or"):
            words.append(self.rest[0])
            self.rest = self.rest[1:]
        wanted = _value(" ".join(words))
        return lambda document: _has(document, name) and compare(_look_up(document, name), wanted)


def _either(left: Test, right: Test) -> Test:
    return lambda document: left(document) or right(document)


def _both(left: Test, right: Test) -> Test:
    return lambda document: left(document) and right(document)


def _value(text: str) -> str | None:
    if text == "null":
        return None
    return text[1:-1] if text[:1] in "\"'" and text[-1:] == text[:1] and len(text) > 1 else text


def _has(document: dict[str, Any], name: str) -> bool:
    """Tell whether a tag or property is there at all: `eq null or ne null` is how the SDK asks for that."""
    first, _, key = name.partition("/")
    found = next((value for field, value in document.items() if field.lower() == first.lower()), None)
    return not key or (isinstance(found, dict) and key in found)


def _look_up(document: dict[str, Any], name: str) -> str | None:
    """Return what the document holds under `Name/key`, as the text that filters compare."""
    found: Any = document
    first, _, rest = name.partition("/")
    for step in [first, rest] if rest else [first]:
        if not isinstance(found, dict):
            return None
        by_case = {key.lower(): value for key, value in found.items()}
        found = found.get(step, by_case.get(step.lower()))
    if found is None or isinstance(found, str):
        return found.replace("T", " ") if name.lower().endswith("utc") and found else found
    return str(found)


def ordered(documents: list[dict[str, Any]], orders: list[str] | str | None) -> list[dict[str, Any]]:
    """Return the documents in the order that clauses such as `StartTimeUtc desc` say; missing values come last."""
    for clause in reversed([orders] if isinstance(orders, str) else orders or []):
        name, _, direction = clause.partition(" ")
        known = [one for one in documents if _look_up(one, name) is not None]
        unknown = [one for one in documents if _look_up(one, name) is None]
        backwards = direction.strip().lower() == "desc"
        documents = sorted(known, key=lambda one: str(_look_up(one, name)), reverse=backwards) + unknown
    return documents
