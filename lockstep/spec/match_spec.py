"""MatchSpecs: a conda dependency in one spelling that rattler reads as conda does.

conda's own reading is `conda/models/match_spec.py` and `version.py`; where rattler's differs, the text is
rewritten to what both read alike, and what has no such spelling is refused.
"""

from __future__ import annotations

import re

_PLAIN = re.compile(r"\w[\w.-]*((==?|[<>]=?)\d[\w.]*(,(==?|[<>]=?)\d[\w.]*)*)?")
_PARTS = re.compile(r"(?P<name>(?:\S+::)?[^\s=<>!~\[]+)(?P<rest>[^\[]*)(?P<brackets>\[.*\])?")
_VERSION_BUILD = re.compile(r"(?P<version>.+?[^><!,|]?)(?:(?<=[^=!|,<>~])[ =](?P<build>[^-=,|<>~]+?))?")
"""conda's own expression: a build follows the version after one blank or `=`."""

_CLAUSE = re.compile(r"(?P<operator>==|<=|>=|!=|~=|=|<|>|)(?P<version>[^*]+?)(?P<star>\.\*|\*)")
_BRACKET_VERSION = re.compile(r"""(version\s*=\s*)(?:"([^"]*)"|'([^']*)'|([^\s,'"\]]+))""")


def normalise(text: str) -> str:
    """Return a MatchSpec in one spelling. Raises ValueError with the reason for what isn't one.

    >>> normalise("giflib = 5.1.* = 0")
    'giflib=5.1.*=0'
    >>> normalise("giflib >5.1.*")
    'giflib>5.1'
    """
    text = re.sub(r"\s*([,|])\s*", r"\1", re.sub(r"\s+", " ", text.partition("#")[0].strip()))
    text = re.sub(r"([<>=!~])\s+", r"\1", text)
    text = re.sub(r"(?<=[\w*])\s+(?=[<>!~=])", "", text)
    if _PLAIN.fullmatch(text):
        return text  # without the solver's library: a build with nothing to do shouldn't pay for it
    if parts := _PARTS.fullmatch(text):
        brackets = parts["brackets"] or ""
        text = parts["name"] + _version_and_build(parts["rest"]) + _in_brackets(brackets)
    _check(text)
    return text


def _version_and_build(rest: str) -> str:
    parts = _VERSION_BUILD.fullmatch(rest.strip())
    if not parts:
        return rest
    version = _version(parts["version"], has_build=parts["build"] is not None)
    if version == parts["version"]:
        return rest
    separator = "" if version[0] in "=<>!~" else "="
    return separator + version + (f"={parts['build']}" if parts["build"] else "")


def _in_brackets(brackets: str) -> str:
    has_build = re.search(r"\bbuild\s*=", brackets) is not None

    def replaced(found: re.Match[str]) -> str:
        before = found[2] or found[3] or found[4] or ""
        after = _version(before, has_build=has_build)
        return found[0] if before == after else f"{found[1]}'{after}'"

    return _BRACKET_VERSION.sub(replaced, brackets)


def _version(version: str, *, has_build: bool) -> str:
    """Return a version constraint with its wildcards as conda takes them."""
    if version.startswith("==") and "*" in version:
        rest = version.lstrip("=")
        if not has_build or not re.search(r"[=,|]", rest):
            version = rest  # `==5.1.*` at the beginning is `5.1.*`
    return "".join(_clause(clause) for clause in re.split(r"([,|()])", version))


def _clause(clause: str) -> str:
    if clause.startswith("~=") and "_" in clause:
        raise ValueError(f"`{clause}` means something else to each of conda's tools: write it with >= and <")
    if clause.startswith("~=") and "." not in clause:
        raise ValueError(f"`{clause}` needs a version of two numbers, such as ~=1.2")
    if clause == "<=*":
        raise ValueError("`<=*` matches nothing")
    found = _CLAUSE.fullmatch(clause)
    if not found or found["operator"] in ("", "=", ">="):
        return clause
    operator, version, star = found["operator"], found["version"], found["star"]
    if operator == "~=":
        raise ValueError(f"`{clause}` has a wildcard after ~=: leave one of them out")
    if star == "*":
        if operator == "!=":
            raise ValueError(f"`{clause}` excludes nothing: write `!={version}.*`")
        return f"<{version}" if operator == "<=" else clause
    return clause if operator == "!=" else operator + version  # conda takes no notice of `.*` there


def _check(text: str) -> None:
    """Let rattler read it; its grammar gives the reason of a ValueError."""
    import rattler
    from rattler.exceptions import InvalidMatchSpecError

    try:
        parsed = rattler.MatchSpec(text)
    except InvalidMatchSpecError as error:
        raise ValueError(str(error)) from error
    if " " in (parsed.build or ""):
        raise ValueError("it has more than name, version and build")
