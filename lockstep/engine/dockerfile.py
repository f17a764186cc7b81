"""What `docker/Dockerfile` says: whether it adds anything to the base, and whether that depends on the day.

Dockerfile reference, "Format" and "Parser directives". Only what is needed to tell the instructions
apart is read here; the engine reads the rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lockstep.errors import SpecError

BASE_IMAGE = "BASE_IMAGE"


@dataclass(frozen=True)
class Instruction:
    """One instruction: its keyword in capitals, what follows, and the number of its last line, from 1."""

    keyword: str
    rest: str
    last_line: int


def read_dockerfile(path: Path) -> str:
    """Return a Dockerfile's text; SpecError in words if it can't be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            f"The Dockerfile {path} can't be read: {error}",
            f"It may be as short as `ARG {BASE_IMAGE}` and `FROM ${{{BASE_IMAGE}}}`.",
        ) from error


def instructions(text: str) -> tuple[Instruction, ...]:
    """Return a Dockerfile's instructions, comments left out and continued lines joined."""
    directive = re.match(r"\s*#\s*escape\s*=\s*(\S)", text, re.IGNORECASE)
    escape = directive[1] if directive else "\\"
    found: list[Instruction] = []
    held = ""
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if line.lstrip().startswith("#"):
            continue
        stripped = line.rstrip()
        if stripped.endswith(escape) and number < len(lines):
            held += stripped[:-1] + " "
            continue
        keyword, _, rest = (held + stripped).strip().partition(" ")
        held = ""
        if keyword:
            found.append(Instruction(keyword.upper(), rest.strip(), number))
    return tuple(found)


def adds_nothing(text: str) -> bool:
    """Tell whether the Dockerfile leaves the base as it is, so that no engine is needed to build it.

    Raises SpecError for one that doesn't start from the base image that the lock pins.
    """
    _check(text)
    return [x.keyword for x in instructions(text) if x.keyword != "ARG"] == ["FROM"]


def depends_on_day(text: str) -> bool:
    """Tell whether building it again another day may give something else: it runs or downloads something."""
    told = instructions(text)
    return any(
        x.keyword == "RUN" or (x.keyword == "ADD" and "://" in x.rest) or _is_foreign(x, told) for x in told
    )


def _is_foreign(instruction: Instruction, told: tuple[Instruction, ...]) -> bool:
    """Tell whether an instruction takes from an image that the lock doesn't pin."""
    stages = {
        match[1].lower()
        for x in told
        if x.keyword == "FROM" and (match := re.search(r"(?i)\sAS\s+(\S+)", x.rest))
    }
    if instruction.keyword == "FROM":
        source = re.sub(r"--\S+\s+", "", instruction.rest).split()[0]
        return BASE_IMAGE not in source and source.lower() not in {*stages, "scratch"}
    if instruction.keyword == "COPY" and (copied := re.search(r"--from=(\S+)", instruction.rest)):
        return copied[1].lower() not in stages and not copied[1].isdigit()
    return False


def _check(text: str) -> None:
    froms = [x for x in instructions(text) if x.keyword == "FROM"]
    if not any(re.search(rf"\$\{{?{BASE_IMAGE}\b", x.rest) for x in froms):
        raise SpecError(
            f"The Dockerfile doesn't start from ${{{BASE_IMAGE}}}, the base image that the lock pins.",
            f"Begin it with `ARG {BASE_IMAGE}` and `FROM ${{{BASE_IMAGE}}}`.",
        )


def with_build_settings(text: str, settings: dict[str, str], copied: str) -> str:
    """Return the Dockerfile with settings for its RUN steps after each FROM, as ARGs, which stay in no image.

    `copied` is a folder of the build context that the steps find at `/<copied>`; `""` for none.
    """
    lines = text.splitlines()
    added = [f"COPY {copied}/ /{copied}/"] if copied else []
    added += [f"ARG {name}={value}" for name, value in settings.items()]
    for instruction in reversed(instructions(text)):
        if instruction.keyword == "FROM":
            lines[instruction.last_line : instruction.last_line] = added
    return "\n".join(lines) + "\n"
