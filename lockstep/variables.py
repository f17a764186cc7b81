"""Variables: settings given as variables of the environment, read by the schema that invoke.yaml has.

    text, path, choice, number   as written        INVOKE_JOB_DATA=digits, INVOKE_JOB_PROCESSES=2
    truth                        true, yes or 1; false, no or 0; in any case
    list                         a shell's words   INVOKE_JOB_ARGUMENTS="--epochs 2 --name 'a b'"
    map                          NAME=VALUE words  INVOKE_JOB_ENVIRONMENT_VARIABLES="A=1 B='two words'"

Invoke would guess by the value that invoke.yaml happens to have: `false` is true to it, and a list ends in
a traceback. So it reads its own settings alone (command_line.py); docs/decisions/41-settings-by-variable.md.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, get_origin

from lockstep.errors import SettingsError

if TYPE_CHECKING:
    from pydantic import BaseModel

PREFIX = "INVOKE_"
INVOKES_OWN = ("debug", "run", "runners", "sudo", "tasks", "timeouts")
"""The sections of Invoke's own settings; theirs are `INVOKE_RUN_…` and so on."""

_INVOKES_VARIABLES = ("INVOKE_DEBUG", "INVOKE_RUNTIME_CONFIG")
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

Key = tuple[str, ...]


def variables_of(schema: type[BaseModel], key: Key = ()) -> Iterator[tuple[str, Key, Any]]:
    """Give each setting's variable, its key and its type: `INVOKE_JOB_SCRIPT`, `("job", "script")`, `str`."""
    for name, field in schema.model_fields.items():
        inner = (*key, name)
        section: Any = field.annotation
        if hasattr(section, "model_fields"):
            yield from variables_of(section, inner)
        else:
            yield PREFIX + "_".join(inner).upper(), inner, field.annotation


def read_variables(schema: type[BaseModel], environment: Mapping[str, str]) -> dict[Key, Any]:
    """Return the settings that variables give, by key; whether they fit the schema is for it to say.

    Raises SettingsError that names each variable that is none of the schema's or Invoke's own, with the
    closest name, and each that can't be read as its type.
    """
    known = {name: (key, kind) for name, key, kind in variables_of(schema)}
    values: dict[Key, Any] = {}
    wrong: list[str] = []
    for name, text in environment.items():
        if name in known:
            key, kind = known[name]
            try:
                values[key] = _reader(kind)(text)
            except ValueError as error:
                wrong.append(f"  {name}: {error}")
        elif name.startswith(PREFIX) and not _is_invokes(name):
            wrong.append(f"  {name} is no setting{closest(name, known)}")
    if wrong:
        raise SettingsError(
            "\n".join(["Variables of the environment don't fit:", *sorted(wrong)]),
            "Correct or unset them; docs/settings.md lists every setting.",
        )
    return values


def closest(name: str, known: Mapping[str, Any]) -> str:
    """Return `; did you mean …?` with the known name that is most like this one, or nothing."""
    found = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {found[0]}?" if found else ""


def is_on(name: str, environment: Mapping[str, str]) -> bool:
    """Tell whether a variable of ours is switched on; unset or empty is off. Raises SettingsError."""
    text = environment.get(name, "")
    try:
        return _truth(text) if text else False
    except ValueError as error:
        raise SettingsError(f"{name}: {error}", f"Set it to 1, or unset it: `unset {name}`.") from error


def _is_invokes(name: str) -> bool:
    sections = tuple(f"{PREFIX}{section.upper()}_" for section in INVOKES_OWN)
    return name in _INVOKES_VARIABLES or name.startswith(sections)


def _reader(kind: Any) -> Callable[[str], Any]:
    """Return what reads a setting of this type from text, with a ValueError that states what was expected."""
    if kind is bool:
        return _truth
    return {int: _whole, tuple: _words, dict: _pairs}.get(get_origin(kind) or kind, str)


def _truth(text: str) -> bool:
    found = _TRUTH.get(text.strip().lower())
    if found is None:
        raise ValueError(f"expected true, yes or 1, or false, no or 0; found {text!r}")
    return found


def _whole(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]+", text.strip()):
        raise ValueError(f"expected a whole number; found {text!r}")
    return int(text)


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:  # the text stays unsaid: arguments may hold what is nobody's business
        raise ValueError(f"expected words as a shell reads them; found text with {_fault(error)}") from error


def _pairs(text: str) -> dict[str, str]:
    words = _words(text)
    for at, word in enumerate(words, 1):
        if not word.partition("=")[1] or word.startswith("="):
            raise ValueError(f"expected words NAME=VALUE; its word {at} of {len(words)} is none")
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def _fault(error: ValueError) -> str:
    return "a quotation that isn't closed" if "quotation" in str(error) else str(error).lower()
