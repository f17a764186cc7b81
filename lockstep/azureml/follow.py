"""Following a run: what it prints, as it prints it, and its end as soon as it is there.

The SDK's own waiting sleeps up to a minute between looks and fetches each log whole every time. This one
looks every second, and asks for the bytes that are new.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from typing import TypeVar

from lockstep.azureml.failures import azureml_errors
from lockstep.azureml.values import RunState

FIRST_SECONDS = 0.15
"""Between looks at first; each is longer than the one before, up to `LAST_SECONDS`."""
LAST_SECONDS = 1.0
T = TypeVar("T")
PATIENCE_SECONDS = 300.0
"""How long the service may be out of reach before following gives up; the run goes on."""

_LOGS = (
    re.compile(r"user_logs/std_log(_process_0+)?\.txt"),
    re.compile(r"azureml-logs/70_driver_log(_0+)?\.txt"),
    re.compile(r"azureml-logs/20_image_build_log\.txt"),
)
"""The script's output under its new and its old name, and the image's build; the first there is shown."""


class LogFollower:
    """Reads the lines of a run's log that are new since the last look."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        import requests

        self._on_line = on_line
        self._session = requests.Session()
        self._name = ""
        self._read = 0
        self._rest = b""

    def look(self, logs: dict[str, str]) -> bool:
        """Hand on what is new; True if there was any. The script's log takes the place of the build's."""
        name = main_log(logs)
        if name is None:
            return False
        if name != self._name:
            self.finish()
            self._name, self._read = name, 0
        new = self._fetch(logs[name])
        *lines, self._rest = (self._rest + new).split(b"\n")
        for line in lines:
            self._on_line(line.rstrip(b"\r").decode("utf-8", "replace"))
        return bool(new)

    def finish(self) -> None:
        """Hand on a last line that has no end."""
        if self._rest:
            self._on_line(self._rest.decode("utf-8", "replace"))
        self._rest = b""

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _fetch(self, url: str) -> bytes:
        """Return the log's bytes from where the last look ended. The address is the permission to read."""
        answer = self._session.get(url, headers={"Range": f"bytes={self._read}-"}, timeout=60)
        if answer.status_code in (404, 416):  # not begun, or nothing new
            return b""
        answer.raise_for_status()
        new = answer.content if answer.status_code == 206 else answer.content[self._read :]
        self._read += len(new)
        return new


def main_log(logs: dict[str, str]) -> str | None:
    """Return which log to show: the script's output, else the image's build."""
    for pattern in _LOGS:
        found = sorted(name for name in logs if pattern.fullmatch(name))
        if found:
            return found[0]
    return None


def follow(
    state: Callable[[], RunState], on_line: Callable[[str], None], on_state: Callable[[RunState], None]
) -> RunState:
    """Show a run until it ends, and return its last state.

    `on_state` hears of every new status. Everything that the run printed has been shown before this returns.
    """
    seen, pause = "", FIRST_SECONDS
    with contextlib.closing(LogFollower(on_line)) as lines:
        while True:
            now = patiently(state)
            if now.status != seen:
                seen, pause = now.status, FIRST_SECONDS
                on_state(now)
            new = patiently(lambda: lines.look(dict(now.logs)))  # noqa: B023 - called at once
            if now.has_ended:
                lines.finish()
                return now
            pause = FIRST_SECONDS if new else min(pause * 1.3, LAST_SECONDS)
            time.sleep(pause)


def patiently(ask: Callable[[], T], patience: float = PATIENCE_SECONDS) -> T:
    """Return what `ask` returns; while the service can't be reached, try again."""
    import requests

    deadline, pause = time.monotonic() + patience, LAST_SECONDS
    while True:
        try:
            with azureml_errors("following the run"):
                return ask()
        except Exception as error:
            cause = error.__cause__
            lasting = not isinstance(cause, requests.ConnectionError | requests.Timeout | ConnectionError)
            if lasting or time.monotonic() > deadline:
                raise
            time.sleep(pause)
            pause = min(pause * 2, 30)
