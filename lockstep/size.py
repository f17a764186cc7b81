"""Sizes as docker writes them: `2g`, `1.5g`, `512m`, `64MiB`, `1073741824`; one reading, wherever one comes from."""

from __future__ import annotations

import re
from decimal import Decimal

from lockstep.errors import SettingsError

_SIZE = re.compile(r"([0-9]{1,40}(?:\.[0-9]{1,40})?) *([bkmgtp]?)(?:i?b)?", re.IGNORECASE)
_POWERS = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}

LARGEST = 2**63 - 1
"""Bytes; an engine takes no number of more than 63 bits."""


def parse_size(text: str) -> int:
    """Return the bytes of a size, in units of 1024, from 1 to LARGEST. Raises SettingsError."""
    found = _SIZE.fullmatch(text.strip())
    size = int(Decimal(found[1]) * 1024 ** _POWERS[found[2].lower()]) if found else 0
    if not 1 <= size <= LARGEST:
        raise SettingsError(f"{text!r} isn't a size.", "Write it like 2g, 1.5g or 512m.")
    return size
