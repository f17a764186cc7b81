"""Variables of the environment in what a person wrote of servers: `$NAME` and `${NAME}`, as conda expands them."""

from __future__ import annotations

import os
import re

from lockstep.errors import SettingsError
from lockstep.redaction import remember
from lockstep.spec.spec import VARIABLE


def expand(text: str, what: str) -> str:
    """Return a text with its variables' values; `what` names it in the SettingsError for one that isn't set.

    >>> os.environ["TEAM"] = "vision"
    >>> expand("https://channels.example/${TEAM}", "The channel")
    'https://channels.example/vision'
    """

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name not in os.environ:
            raise SettingsError(
                f"{what} {text} holds the variable {name}, which isn't set.",
                f"Set it (`export {name}=…`), or write what it stands for.",
            )
        if "://" in text:  # of a URL any part may be a secret
            remember(os.environ[name])
        return os.environ[name]

    return VARIABLE.sub(value, text)
