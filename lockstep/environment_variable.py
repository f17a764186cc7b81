"""Environment variables that people give an image or a job, and those that they can't give it.

Which Python runs, and where it finds its library, follows from the lock; docs/decisions/42-reserved-variables.md.
"""

from __future__ import annotations

import re

RESERVED = ("PATH", "PYTHONHOME", "PYTHONPLATLIBDIR", "CONDA_PREFIX", "CONDA_DEFAULT_ENV")
"""With one of these changed `python` isn't found, is another one, doesn't start, or is called what it isn't."""

_NAME = re.compile(r"[^=\s\x00]+")


def variable_trouble(name: str, value: str) -> tuple[str, str] | None:
    """Return why a variable can't be set, and the remedy; None if it can."""
    if name == "PATH":
        return (
            "PATH can't be set: the image's own begins with the environment's programs, `python` among them.",
            "Add folders by `ENV PATH=…` in the Dockerfile; the environment's stay in front of them.",
        )
    if name in RESERVED:
        return f"{name} can't be set: the image's Python depends on it.", "Take it out."
    if not _NAME.fullmatch(name):
        return (
            f"{name!r} is no variable's name.",
            "Write a name without blanks and `=`, such as OMP_NUM_THREADS.",
        )
    if "\x00" in value:
        return f"The value of {name} has a NUL character, which no variable can hold.", "Take it out."
    return None
