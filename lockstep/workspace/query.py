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
LENGTH_LIMIT, DEPTH_LIMIT = 10_000, 50


def parse_filter(text: str | None) -> Test:
    """Return the test that a filter such as `(Status eq Failed) and (Tags/a eq "b")` describes.

    Names are looked up in the document whatever their case; `/` steps into maps. A value may hold spaces
    without quotes, as the SDK sends them. What can't be read, is longer than LENGTH_LIMIT characters or has more
    than DEPTH_LIMIT parentheses in each other is refused with 400.
    """
    text = text or ""
    if len(text) > LENGTH_LIMIT:
        raise _unreadable(f"The filter is longer than {LENGTH_LIMIT:,} characters.")
    tokens = TOKEN.findall(text)
    if not tokens:
        return lambda _: True
    parser = _Parser(tokens)
    test = parser.either()
    if parser.rest:
        raise _unreadable(f"The filter can't be read at {parser.rest[-1][:80]!r}.")
    return test


def _unreadable(message: str) -> Fault:
    return Fault(400, message, "BadArgument")


class _Parser:
    """Takes tokens from the end of `rest`, where the first one lies."""

    def __init__(self, tokens: list[str]) -> None:
        self.rest = tokens[::-1]
        self._depth = 0

    def _next(self) -> str:
        return self.rest[-1].lower() if self.rest else ""

    def _take(self, wanted: str) -> bool:
        if self._next() == wanted:
            self.rest.pop()
            return True
        return False

    def either(self) -> Test:
        tests = [self.both()]
        while self._take("or"):
            tests.append(self.both())
        return lambda document: any(test(document) for test in tests)

    def both(self) -> Test:
        tests = [self.one()]
        while self._take("and"):
            tests.append(self.one())
        return lambda document: all(test(document) for test in tests)

    def one(self) -> Test:
        if self._take("("):
            self._depth += 1
            if self._depth > DEPTH_LIMIT:
                raise _unreadable(f"The filter has more than {DEPTH_LIMIT} parentheses in each other.")
            inner = self.either()
            if not self._take(")"):
                raise _unreadable("A parenthesis is open in the filter.")
            self._depth -= 1
            return inner
        first = self.rest[:-4:-1]
        if len(first) < 3 or first[1].lower() not in COMPARE:
            raise _unreadable(f"The filter can't be read at {' '.join(first)[:80]!r}.")
        name, compare, words = first[0], COMPARE[first[1].lower()], [first[2]]
        del self.rest[-3:]
        while self._next() not in ("", "(", ")", "and", "or"):
            words.append(self.rest.pop())
        wanted = _value(" ".join(words))
        return lambda document: _has(document, name) and compare(_look_up(document, name), wanted)


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
