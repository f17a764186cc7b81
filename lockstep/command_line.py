"""Command line: what the tasks need beyond Invoke itself.

Errors in words, the words after `--`, one help text for a flag that many tasks have, and a flag that takes
two values.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.parser.argument import Argument
from invoke.tasks import Task

if TYPE_CHECKING:
    from lockstep.errors import LockstepError

HELP = {
    "locked": "refuse a stale lock instead of making it anew",
    "no-install": "never install system packages (as LOCKSTEP_NO_INSTALL=1)",
    "json": "print JSON for scripts",
    "workspace": "embedded, a name, SUBSCRIPTION/GROUP/NAME or a config.json",
    "tenant": "the Azure tenant to sign in to",
    "upgrade": "move all packages, or those named (numpy,torch), to the newest versions that fit",
}


def help_on(*names: str, **own: str) -> dict[str, str]:
    """Return the help texts of a task's flags: those that many tasks have by name, its own as they are."""
    return {**{name: HELP[name] for name in names}, **own}


def in_words(body: Callable[..., Any]) -> Callable[..., Any]:
    """Run a task's body so that what a user can cause ends in words and an exit code, not a traceback."""

    @functools.wraps(body)
    def run(c: Context, *args: Any, **flags: Any) -> Any:
        from lockstep.errors import LockstepError
        from lockstep.home import disk_full_in_words
        from lockstep.redaction import guard_output

        guard_output()
        try:
            with disk_full_in_words(Path(__file__).parent):
                return body(c, *args, **flags)
        except LockstepError as error:
            _end_at_once(error)
            raise Exit(str(error), code=error.exit_code) from error
        except KeyboardInterrupt as error:
            raise Exit(
                "Interrupted. What was finished is kept; the same command goes on from there.", 130
            ) from error
        except BrokenPipeError:  # `./invoke image | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise Exit(code=141) from None

    return run


def _end_at_once(error: LockstepError) -> None:
    """End the process without Python's own clean-up, if rattler was used.

    Now and then one of rattler's threads lets go of an object while the interpreter ends, which aborts it
    (exit code -6) with a page of words that help nobody.
    """
    if "rattler" in sys.modules:
        print(error, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(error.exit_code)


def words_after_dashes() -> tuple[str, ...]:
    """Return the words after `--` on the command line, as the shell gave them."""
    return tuple(sys.argv[sys.argv.index("--") + 1 :]) if "--" in sys.argv else ()


class ComparingTask(Task[Callable[..., Any]]):
    """A task whose flag `compare` takes two values: `--compare A B`."""

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        arguments: list[Argument] = super().get_arguments(ignore_unknown_help)
        for at, found in enumerate(arguments):
            if found.name == "compare":
                arguments[at] = _Pair(names=found.names, default=(), help=found.help)
        return arguments


class _Pair(Argument):
    """A flag that isn't content before it has two values. Invoke asks `raw_value` whether to wait for more."""

    def __repr__(self) -> str:  # what Invoke's error calls it
        return f"--{self.name} A B"

    def set_value(self, value: Any, cast: bool = True) -> None:
        self._value = (*(self._value or ()), value)
        self.raw_value = value if len(self._value) == 2 else None
